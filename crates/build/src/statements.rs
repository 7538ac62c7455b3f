//! What frontends and scanners say of results, read into attestations: in-toto statements, and predicates without one.
//!
//! Source: the in-toto statement; what upstream makes of attestations that a client's frontend returns was observed:
//! all files of a bundle are statements, a bundle's subjects are its own, a predicate without bytes is `null`, and
//! predicates are written without white space.

use std::collections::BTreeMap;

use bytes::Bytes;
use rbuild_exporter::{About, Attestation, Predicate, Subject};
use rbuild_frontend::{
    AttestationKind, AttestationSubject, BuildError, ErrorCode, FrontendAttestation, SharedRef,
};
use rbuild_oci::json;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// Bytes of all statements of one result: they are in memory until it is exported.
pub(crate) const MAX_BYTES: u64 = 64 << 20;
/// Statements of one result.
pub(crate) const MAX_STATEMENTS: usize = 1_000;

#[derive(Debug, Deserialize)]
struct Statement {
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<StatementSubject>>,
    predicate: Box<RawValue>,
}

#[derive(Debug, Deserialize)]
struct StatementSubject {
    #[serde(default)]
    name: String,
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

/// An attestation from the text of a statement. Its subjects are its own; without any it speaks of the result.
pub(crate) fn statement(file_name: String, bytes: &[u8]) -> Result<Attestation, String> {
    let statement: Statement = serde_json::from_slice(bytes)
        .map_err(|error| format!("{file_name} is no in-toto statement: {error}"))?;
    let subjects = statement.subject.unwrap_or_default();
    let subject = |s: StatementSubject| About::Other(Subject { name: s.name, digest: s.digest });
    Ok(Attestation {
        predicate_type: statement.predicate_type,
        predicate: Predicate::Known(json::compacted(statement.predicate.get().as_bytes()).into()),
        subjects: subjects.into_iter().map(subject).collect(),
        file_name,
        inline_only: false,
    })
}

/// Reads what a frontend says, within what a result may hold.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes_left: u64,
    statements_left: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self { bytes_left: MAX_BYTES, statements_left: MAX_STATEMENTS }
    }
}

impl Reader {
    /// The attestations that `all` stand for, in that order; those of a bundle in the order of names.
    ///
    /// Errors: files that are not there, that are not JSON or no statements; too many, or too large ones.
    pub(crate) async fn read(&mut self, all: &[FrontendAttestation]) -> Result<Vec<Attestation>, BuildError> {
        let mut read = Vec::new();
        for said in all {
            let reference = said.reference.as_ref();
            let reference = reference
                .ok_or_else(|| BuildError::invalid("attestation does not have available content"))?;
            let first = read.len();
            match &said.kind {
                AttestationKind::Predicate { predicate_type, subjects } => {
                    let predicate = self.predicate(reference, &said.path).await?;
                    read.push(Attestation {
                        predicate_type: predicate_type.clone(),
                        predicate: Predicate::Known(predicate),
                        subjects: subjects.iter().map(about).collect(),
                        file_name: base_name(&said.path).to_owned(),
                        inline_only: false,
                    });
                }
                AttestationKind::Bundle { predicate_type } => {
                    read.extend(self.bundle(reference, &said.path, predicate_type).await?);
                }
            }
            for attestation in &mut read[first..] {
                attestation.inline_only = said.is_inline_only();
            }
        }
        Ok(read)
    }

    async fn predicate(&mut self, reference: &SharedRef, path: &str) -> Result<Bytes, BuildError> {
        let text = self.file(reference, path).await?;
        if text.is_empty() {
            return Ok(Bytes::from_static(b"null"));
        }
        serde_json::from_slice::<IgnoredAny>(&text)
            .map_err(|error| BuildError::invalid(format!("attestation {path} is not JSON: {error}")))?;
        Ok(json::compacted(&text).into())
    }

    async fn bundle(
        &mut self,
        reference: &SharedRef,
        path: &str,
        wanted: &str,
    ) -> Result<Vec<Attestation>, BuildError> {
        let mut found = Vec::new();
        let dir = if path.is_empty() { "/" } else { path };
        for entry in reference.read_dir(dir, "").await? {
            let text = self.file(reference, &format!("{}/{}", dir.trim_end_matches('/'), entry.path)).await?;
            let said = statement(entry.path, &text).map_err(BuildError::invalid)?;
            if !wanted.is_empty() && said.predicate_type != wanted {
                return Err(BuildError::invalid(format!(
                    "bundle entry {} does not match required predicate type {wanted}",
                    said.predicate_type
                )));
            }
            found.push(said);
        }
        Ok(found)
    }

    async fn file(&mut self, reference: &SharedRef, path: &str) -> Result<Vec<u8>, BuildError> {
        let too_much = |what: String| BuildError::new(ErrorCode::ResourceExhausted, what);
        self.statements_left = self.statements_left.checked_sub(1).ok_or_else(|| {
            too_much(format!("the result comes with more than {MAX_STATEMENTS} attestations"))
        })?;
        let text = reference.read_file(path, None).await?;
        self.bytes_left = self.bytes_left.checked_sub(text.len() as u64).ok_or_else(|| {
            too_much(format!("the result comes with more than {MAX_BYTES} bytes of attestations"))
        })?;
        Ok(text)
    }
}

fn about(subject: &AttestationSubject) -> About {
    match subject {
        AttestationSubject::Result(name) if name.is_empty() => About::Result,
        AttestationSubject::Result(name) => About::ResultAs(name.clone()),
        AttestationSubject::Other { name, digest } => {
            About::Other(Subject { name: name.clone(), digest: digest.clone() })
        }
    }
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}
