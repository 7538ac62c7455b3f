use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_llb::{Op, SourceLocation};

use crate::{Fault, SharedRef};

/// What kind of failure it is; the daemon maps it to a gRPC code in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The request or the user's files are wrong.
    InvalidArgument,
    /// Something named does not exist.
    NotFound,
    /// Something already exists.
    AlreadyExists,
    /// An entitlement, a policy or credentials are missing.
    PermissionDenied,
    /// A feature that this daemon does not have.
    Unimplemented,
    /// A limit was reached, for instance a full disk.
    ResourceExhausted,
    /// A peer (registry, client, server) failed or went away.
    Unavailable,
    /// The build was cancelled.
    Cancelled,
    /// A step of the user's failed.
    Unknown,
    /// A broken invariant of ours.
    Internal,
}

/// A typed fact about an error, for clients that can show it.
#[derive(Debug, Clone)]
pub enum Detail {
    /// The vertex that failed.
    Vertex(Digest),
    /// Where in the user's source the failing instruction stands.
    Source(SourceLocation),
    /// The exit code of the failed process.
    Exit(u32),
    /// The step that failed and what it left, for whoever drives the build to look at.
    Step(Arc<FailedStep>),
    /// Which of the known failures it is.
    Fault(Fault),
    /// What the user can do about it, in a sentence.
    Hint(String),
    /// The unsupported sub-request.
    Subrequest(String),
    /// The unsupported frontend capability.
    FrontendCap(String),
    /// A detail of a type we do not know, from a frontend outside the daemon: passed on as it came.
    Opaque {
        /// The type URL of the wire's `Any`.
        type_url: String,
        /// Its bytes.
        value: Vec<u8>,
    },
}

/// A step that failed. As long as it is held, so are the file systems.
#[derive(Debug)]
pub struct FailedStep {
    /// What was to be done.
    pub op: Op,
    /// What the definition says of it.
    pub description: BTreeMap<String, String>,
    /// What each mount of a process was made of.
    pub inputs: Vec<Option<SharedRef>>,
    /// How each mount of a process was left; where nothing can be kept, `None`.
    pub mounts: Vec<Option<SharedRef>>,
}

/// An error on its way to the user. `message` stands alone; `details` are typed extras.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// Kind of failure.
    pub code: ErrorCode,
    /// Lower-case text without a full stop: what, of what, expected and found.
    pub message: String,
    /// Typed facts.
    pub details: Vec<Detail>,
}

impl BuildError {
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// The user's request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// The daemon does not have this feature.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unimplemented, message)
    }

    /// Adds a typed fact.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        self.details.push(detail);
        self
    }

    /// Puts `context: ` before the message and keeps the rest.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Says which of the known failures it is. Who knows first knows best: a later word is ignored.
    #[must_use]
    pub fn fault(self, fault: Fault) -> Self {
        match self.known_fault() {
            Some(_) => self,
            None => self.with(Detail::Fault(fault)),
        }
    }

    /// Which of the known failures it is.
    pub fn known_fault(&self) -> Option<Fault> {
        self.details.iter().find_map(|detail| match detail {
            Detail::Fault(fault) => Some(*fault),
            _ => None,
        })
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        self.with(Detail::Hint(hint.into()))
    }
}
