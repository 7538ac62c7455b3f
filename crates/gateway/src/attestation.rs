//! What frontends say of their results, wire ⇄ ours.

use std::collections::BTreeMap;

use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_frontend::{AttestationKind, AttestationSubject, BuildError, FrontendAttestation};

use crate::ForwardedBuild;
use crate::convert::definition_to_wire;

/// More than anyone says of one result.
const MAX_ATTESTATIONS: usize = 1_000;
/// Subjects of one of them.
const MAX_SUBJECTS: usize = 10_000;
/// How upstream writes that a subject has no name of its own.
const NO_NAME: &str = "_";

type ByPart<T> = BTreeMap<String, T>;

/// Errors: references that there are not, kinds and digests that make no sense.
pub(crate) fn from_wire(
    build: &ForwardedBuild,
    all: ByPart<wire::Attestations>,
) -> Result<ByPart<Vec<FrontendAttestation>>, BuildError> {
    let count: usize = all.values().map(|list| list.attestation.len()).sum();
    if count > MAX_ATTESTATIONS {
        return Err(BuildError::invalid(format!("{count} attestations, at most {MAX_ATTESTATIONS}")));
    }
    let list = |list: wire::Attestations| {
        list.attestation.into_iter().map(|said| one(build, said)).collect::<Result<Vec<_>, _>>()
    };
    all.into_iter().map(|(part, of_part)| Ok((part, list(of_part)?))).collect()
}

fn one(build: &ForwardedBuild, said: wire::Attestation) -> Result<FrontendAttestation, BuildError> {
    let predicate_type = said.in_toto_predicate_type;
    let kind = match wire::AttestationKind::try_from(said.kind) {
        Ok(wire::AttestationKind::InToto) => {
            if said.in_toto_subjects.len() > MAX_SUBJECTS {
                return Err(BuildError::invalid(format!(
                    "an attestation of more than {MAX_SUBJECTS} things"
                )));
            }
            let subjects = said.in_toto_subjects.into_iter().map(subject).collect::<Result<_, _>>()?;
            AttestationKind::Predicate { predicate_type, subjects }
        }
        Ok(wire::AttestationKind::Bundle) => AttestationKind::Bundle { predicate_type },
        Err(_) => return Err(BuildError::invalid(format!("unknown attestation kind {}", said.kind))),
    };
    let reference = match said.r#ref {
        None => None,
        Some(reference) => build.reference(&reference.id)?,
    };
    Ok(FrontendAttestation { kind, reference, path: said.path, metadata: said.metadata })
}

fn subject(wire: wire::InTotoSubject) -> Result<AttestationSubject, BuildError> {
    match wire::InTotoSubjectKind::try_from(wire.kind) {
        Ok(wire::InTotoSubjectKind::Self_) => {
            let name = if wire.name == NO_NAME { String::new() } else { wire.name };
            Ok(AttestationSubject::Result(name))
        }
        Ok(wire::InTotoSubjectKind::Raw) => {
            let name = if wire.name.is_empty() { NO_NAME.to_owned() } else { wire.name };
            let digest = wire.digest.iter().map(|text| digest(text)).collect::<Result<_, _>>()?;
            Ok(AttestationSubject::Other { name, digest })
        }
        Err(_) => Err(BuildError::invalid(format!("unknown kind {} of an attestation's subject", wire.kind))),
    }
}

/// Algorithm and hexadecimal digits: statements may name what we have no digests of.
fn digest(text: &str) -> Result<(String, String), BuildError> {
    let named = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte))
    };
    match text.split_once(':') {
        Some((algorithm, hex))
            if !algorithm.is_empty()
                && named(algorithm)
                && !hex.is_empty()
                && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            Ok((algorithm.to_owned(), hex.to_owned()))
        }
        _ => Err(BuildError::invalid(format!("invalid digest `{text}` of an attestation's subject"))),
    }
}

pub(crate) fn to_wire(
    build: &ForwardedBuild,
    all: ByPart<Vec<FrontendAttestation>>,
) -> ByPart<wire::Attestations> {
    let one = |said: FrontendAttestation| {
        let (kind, in_toto_predicate_type, subjects) = match said.kind {
            AttestationKind::Predicate { predicate_type, subjects } => {
                (wire::AttestationKind::InToto, predicate_type, subjects)
            }
            AttestationKind::Bundle { predicate_type } => {
                (wire::AttestationKind::Bundle, predicate_type, Vec::new())
            }
        };
        let def = said.reference.as_ref().map(|held| definition_to_wire(&held.definition()));
        wire::Attestation {
            kind: kind.into(),
            metadata: said.metadata,
            r#ref: Some(wire::Ref { id: build.keep(said.reference), def }),
            path: said.path,
            in_toto_predicate_type,
            in_toto_subjects: subjects.into_iter().map(subject_to_wire).collect(),
        }
    };
    let all = all.into_iter().filter(|(_, of_part)| !of_part.is_empty());
    all.map(|(part, of_part)| {
        (part, wire::Attestations { attestation: of_part.into_iter().map(one).collect() })
    })
    .collect()
}

fn subject_to_wire(subject: AttestationSubject) -> wire::InTotoSubject {
    match subject {
        AttestationSubject::Result(name) => {
            wire::InTotoSubject { kind: wire::InTotoSubjectKind::Self_.into(), digest: Vec::new(), name }
        }
        AttestationSubject::Other { name, digest } => wire::InTotoSubject {
            kind: wire::InTotoSubjectKind::Raw.into(),
            digest: digest.into_iter().map(|(algorithm, hex)| format!("{algorithm}:{hex}")).collect(),
            name,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_of_any_algorithm_and_in_form() {
        assert_eq!(digest("gitCommit:00").ok(), None);
        assert_eq!(digest("md5:0aF").unwrap(), ("md5".into(), "0aF".into()));
        for text in ["", "sha256", "sha256:", ":00", "sha256:zz", "a b:00"] {
            assert!(digest(text).unwrap_err().to_string().contains("invalid digest"), "{text}");
        }
    }

    #[test]
    fn subjects_come_back_as_they_went() {
        let digest = BTreeMap::from([("sha256".to_owned(), "00".to_owned())]);
        for told in [
            AttestationSubject::Result(String::new()),
            AttestationSubject::Result("n".into()),
            AttestationSubject::Other { name: "o".into(), digest },
        ] {
            assert_eq!(subject(subject_to_wire(told.clone())).unwrap(), told);
        }
        let nameless = wire::InTotoSubject { kind: 1, ..Default::default() };
        let expected = AttestationSubject::Other { name: "_".into(), digest: BTreeMap::new() };
        assert_eq!(subject(nameless).unwrap(), expected);
        assert!(subject(wire::InTotoSubject { kind: 2, ..Default::default() }).is_err());
    }
}
