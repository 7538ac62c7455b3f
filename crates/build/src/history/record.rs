use std::collections::BTreeMap;

use rbuild_digest::Digest;
use rbuild_progress::Tally;
use serde::{Deserialize, Serialize};

use crate::explain::Explained;
use crate::redact::without_password;
use crate::request::{BuildRequest, ExporterSpec, What};

/// The option in which clients list the caches to import, for the frontend.
const CACHE_IMPORTS: &str = "cache-imports";

/// What is kept of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// The client's name for it.
    pub id: String,
    /// `dockerfile.v0`; empty if the client ran the frontend, or gave a definition.
    pub frontend: String,
    /// The frontend's options, without passwords in URLs.
    pub options: BTreeMap<String, String>,
    /// Where the result went.
    pub exporters: Vec<ExporterSpec>,
    /// Begin, milliseconds since 1970.
    pub created_ms: i64,
    /// End, milliseconds since 1970; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_ms: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<HistoryError>,
    /// All events, as length-prefixed `StatusResponse`s; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<HistoryBlob>,
    /// What was done when, as spans; `None` until it is written, a moment after the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<HistoryBlob>,
    /// What steps used, a JSON object on a line for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<HistoryBlob>,
    /// What the client was told (`containerimage.digest`…).
    #[serde(default)]
    pub response: BTreeMap<String, String>,
    /// How its results came about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<HistoryAttestation>,
    /// Steps and warnings.
    #[serde(default)]
    pub tally: Tally,
    /// Why steps ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explained: Vec<Explained>,
    /// Kept whatever the limits say.
    #[serde(default)]
    pub pinned: bool,
    /// A question of a client to itself: not listed, and kept no longer than its events may be asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Changes of this record since it was made.
    #[serde(default)]
    pub generation: u32,
}

/// A failed build's error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryError {
    /// The text that the client was told.
    pub message: String,
    /// The build was cancelled: no failure of its own.
    pub cancelled: bool,
    /// The error with its details, in the wire's form.
    pub status: HistoryBlob,
}

/// A file of the history, named by content for clients that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryBlob {
    /// Of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
}

/// A predicate about a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryAttestation {
    /// The platform's id in a result for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `https://slsa.dev/provenance/v1`
    pub predicate_type: String,
    /// Its JSON.
    pub predicate: HistoryBlob,
}

impl HistoryRecord {
    /// A build that begins now.
    pub(super) fn begin(request: &BuildRequest) -> Self {
        let (frontend, options) = match &request.what {
            What::Definition(_) => (String::new(), BTreeMap::new()),
            What::Frontend { name, options, .. } => (name.clone(), options.clone()),
            What::Client { options, .. } => (String::new(), options.clone()),
        };
        Self {
            id: request.id.clone(),
            frontend,
            options: options.into_iter().map(kept).collect(),
            exporters: request.exporters.clone(),
            created_ms: now_ms(),
            completed_ms: None,
            error: None,
            log: None,
            trace: None,
            usage: None,
            response: BTreeMap::new(),
            attestations: Vec::new(),
            tally: Tally::default(),
            explained: Vec::new(),
            pinned: false,
            internal: request.internal,
            generation: 0,
        }
    }

    /// Still running.
    pub fn is_active(&self) -> bool {
        self.completed_ms.is_none()
    }

    /// Its files by content.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (HistoryBlob, FileKind)> {
        let log = self.log.map(|blob| (blob, FileKind::Log));
        let error = self.error.as_ref().map(|error| (error.status, FileKind::Error));
        let trace = self.trace.map(|blob| (blob, FileKind::Trace));
        let usage = self.usage.map(|blob| (blob, FileKind::Usage));
        let said = self
            .attestations
            .iter()
            .zip(0..)
            .map(|(said, number)| (said.predicate, FileKind::Attestation(number)));
        log.into_iter().chain(error).chain(trace).chain(usage).chain(said)
    }
}

/// Which file of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Log,
    Error,
    Trace,
    Usage,
    /// Counted from 0 without gaps.
    Attestation(u16),
}

impl FileKind {
    /// Those that a build has one of at most.
    pub(super) const SINGLE: [Self; 4] = [Self::Log, Self::Error, Self::Trace, Self::Usage];

    pub(super) fn file_name(self, id: &str) -> String {
        match self {
            Self::Log => format!("{id}.log"),
            Self::Error => format!("{id}.error"),
            Self::Trace => format!("{id}.trace"),
            Self::Usage => format!("{id}.usage"),
            Self::Attestation(number) => format!("{id}.attestation{number}"),
        }
    }
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

/// An option as it is kept: without what nobody but the builder should know.
fn kept((name, value): (String, String)) -> (String, String) {
    let value = if name == CACHE_IMPORTS { without_keys(&value) } else { value };
    (name, without_password(&value))
}

/// The list of caches to import without keys and tokens; nothing at all if it is no such list.
fn without_keys(value: &str) -> String {
    let Ok(mut list) = serde_json::from_str::<serde_json::Value>(value) else { return String::new() };
    let entries = list.as_array_mut().into_iter().flatten();
    for attrs in entries.filter_map(|entry| entry.get_mut("Attrs")?.as_object_mut()) {
        for (_, value) in attrs.iter_mut().filter(|(name, _)| rbuild_cache::is_secret(name)) {
            *value = "xxxxx".into();
        }
    }
    list.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_caches_are_not_kept() {
        let list =
            r#"[{"Attrs":{"bucket":"b","secret_access_key":"hush","session_token":"hush"},"Type":"s3"}]"#;
        let (_, text) = kept((CACHE_IMPORTS.into(), list.into()));
        assert!(text.contains(r#""bucket":"b""#) && !text.contains("hush"), "{text}");
        assert_eq!(kept((CACHE_IMPORTS.into(), "hush".into())).1, "");
    }
}
