use std::collections::BTreeMap;

use crate::SharedRef;

/// Name of the metadata that keeps an attestation out of outputs that carry none within themselves.
const INLINE_ONLY: &str = "inline-only";

/// What a frontend says of a part of its result: files of a reference that exporters make statements of.
#[derive(Debug, Clone)]
pub struct FrontendAttestation {
    /// What the files are.
    pub kind: AttestationKind,
    /// Who has them; `None` is an empty file system, which says nothing.
    pub reference: Option<SharedRef>,
    /// The file, or the directory of a bundle.
    pub path: String,
    /// `reason`, `inline-only`…
    pub metadata: BTreeMap<String, Vec<u8>>,
}

impl FrontendAttestation {
    /// Whether it is for images only.
    pub fn is_inline_only(&self) -> bool {
        self.metadata.get(INLINE_ONLY).is_some_and(|value| value == b"true")
    }
}

/// What the files of an attestation are.
#[derive(Debug, Clone)]
pub enum AttestationKind {
    /// One file, a predicate.
    Predicate {
        /// `https://slsa.dev/provenance/v1`
        predicate_type: String,
        /// What it is about; empty: the result.
        subjects: Vec<AttestationSubject>,
    },
    /// Statements that are complete, all files of a directory.
    Bundle {
        /// What all of them have to be of; empty: anything.
        predicate_type: String,
    },
}

/// What a predicate is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestationSubject {
    /// The result, under that name; empty: those that it has.
    Result(String),
    /// Something else.
    Other {
        /// Its name.
        name: String,
        /// Hexadecimal digests by algorithm.
        digest: BTreeMap<String, String>,
    },
}
