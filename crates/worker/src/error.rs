use std::sync::Arc;

use rbuild_exec::ExecError;
use rbuild_session::SessionError;
use rbuild_source::SourceError;
use rbuild_store::{Ref, StoreError};
use rbuild_sys::SysError;

use crate::entitlements::Entitlement;
use crate::files::FileError;

/// Whose doing a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpErrorKind {
    /// A step of the user's failed.
    User,
    /// The definition asks for something impossible.
    Invalid,
    /// Something named is not there.
    NotFound,
    /// An entitlement or a policy is missing.
    Denied,
    /// A registry, server or client failed.
    Peer,
    /// The disk is full.
    NoSpace,
    /// This daemon does not have the feature.
    Unsupported,
    /// Nobody waits for the result any more.
    Cancelled,
    /// The machine.
    Environment,
    /// A broken invariant of ours.
    Internal,
}

/// The file systems of a process that failed, by mount.
#[derive(Debug)]
pub struct Left {
    /// What each mount was made of.
    pub inputs: Vec<Option<Ref>>,
    /// How each was left; memory and caches leave nothing.
    pub mounts: Vec<Option<Ref>>,
}

/// The kernel killed something in a step for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes that the step might have; `None`: what the machine has.
    pub limit: Option<u64>,
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.limit {
            None => f.write_str(" (out of memory)"),
            Some(limit) => write!(f, " (out of memory: the step's limit is {limit} bytes)"),
        }
    }
}

/// An op failed. Causes are shared, because all builds that waited for the op get the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpError {
    /// The process ended with a code that does not count as success.
    #[error("process {command} did not complete successfully: exit code: {code}{}", .oom.map(|killed| killed.to_string()).unwrap_or_default())]
    Exit {
        /// The command line, quoted.
        command: String,
        /// Its exit code, or 128 and the signal.
        code: u32,
        /// The kernel killed it for lack of memory.
        oom: Option<OutOfMemory>,
        /// What it left, if a build wants to see it.
        left: Option<Arc<Left>>,
    },
    /// The process could not be started or watched.
    #[error("process {command} did not complete successfully: {error}")]
    Exec {
        /// The command line, quoted.
        command: String,
        /// Why.
        #[source]
        error: Arc<ExecError>,
        /// What it left, if a build wants to see it.
        left: Option<Arc<Left>>,
    },
    /// The build was not granted what the op needs.
    #[error("{entitlement} is not allowed: {missing}")]
    Denied {
        /// What it needs.
        entitlement: Entitlement,
        /// Who has to grant it.
        missing: &'static str,
    },
    /// There is no such device on this machine.
    #[error("CDI device `{name}` is not there: no specification on the daemon's machine names it")]
    Device {
        /// Which device.
        name: String,
    },
    /// This daemon does not have the feature.
    #[error("{what} is not supported by this daemon")]
    Unsupported {
        /// Which feature.
        what: String,
    },
    /// The definition asks for something impossible.
    #[error("{message}")]
    Invalid {
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The client has no such secret.
    #[error("secret {id}: not found")]
    NoSecret {
        /// Which one.
        id: String,
    },
    /// The client forwards no such agent.
    #[error("no SSH key \"{id}\" forwarded from the client")]
    NoAgent {
        /// Which one.
        id: String,
    },
    /// A file could not be changed as asked.
    #[error(transparent)]
    File(#[from] Arc<FileError>),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A source.
    #[error(transparent)]
    Source(Arc<SourceError>),
    /// The client that started the build.
    #[error(transparent)]
    Session(Arc<SessionError>),
    /// A system call.
    #[error(transparent)]
    Sys(Arc<SysError>),
    /// A definition that the op had solved failed.
    #[error("{message}")]
    Nested {
        /// What happened there.
        message: String,
        /// Whose doing it is.
        kind: OpErrorKind,
        /// Exit code of the failed process, if that is what happened.
        exit_code: Option<u32>,
    },
    /// Nobody waits any more.
    #[error("context canceled")]
    Cancelled,
    /// A worker thread ended early.
    #[error("internal error: {detail}")]
    Internal {
        /// How.
        detail: String,
    },
}

impl OpError {
    /// Exit code of the failed process, if that is what happened.
    pub fn exit_code(&self) -> Option<u32> {
        match self {
            Self::Exit { code, .. } => Some(*code),
            Self::Exec { error, .. } => error.exit_code(),
            Self::Nested { exit_code, .. } => *exit_code,
            _ => None,
        }
    }

    /// What the failed process left, if a build wants to see it.
    pub fn left(&self) -> Option<&Arc<Left>> {
        match self {
            Self::Exit { left, .. } | Self::Exec { left, .. } => left.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn leaving(self, what: Arc<Left>) -> Self {
        match self {
            Self::Exit { command, code, oom, .. } => Self::Exit { command, code, oom, left: Some(what) },
            Self::Exec { command, error, .. } => Self::Exec { command, error, left: Some(what) },
            other => other,
        }
    }

    /// Whose doing it is.
    pub fn kind(&self) -> OpErrorKind {
        match self {
            Self::Exit { .. } => OpErrorKind::User,
            Self::Exec { error, .. } => match &**error {
                ExecError::Cancelled => OpErrorKind::Cancelled,
                error if error.is_users() => OpErrorKind::User,
                ExecError::Sys(error) if error.is_no_space() => OpErrorKind::NoSpace,
                _ => OpErrorKind::Environment,
            },
            Self::Denied { .. } => OpErrorKind::Denied,
            Self::Unsupported { .. } => OpErrorKind::Unsupported,
            Self::Invalid { .. } => OpErrorKind::Invalid,
            Self::Device { .. } | Self::NoSecret { .. } | Self::NoAgent { .. } => OpErrorKind::NotFound,
            Self::File(error) => error.kind(),
            Self::Store(error) => store_kind(error),
            Self::Source(error) => crate::ops::source::kind(error),
            Self::Session(error) if error.is_no_space() => OpErrorKind::NoSpace,
            Self::Session(_) => OpErrorKind::Peer,
            Self::Sys(error) if error.is_no_space() => OpErrorKind::NoSpace,
            Self::Sys(_) => OpErrorKind::Environment,
            Self::Nested { kind, .. } => *kind,
            Self::Cancelled => OpErrorKind::Cancelled,
            Self::Internal { .. } => OpErrorKind::Internal,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

fn store_kind(error: &StoreError) -> OpErrorKind {
    match error {
        error if error.is_no_space() => OpErrorKind::NoSpace,
        error if error.is_not_found() => OpErrorKind::NotFound,
        StoreError::Fetch { .. } | StoreError::SourceGone { .. } | StoreError::DiffId { .. } => {
            OpErrorKind::Peer
        }
        StoreError::Worker { .. } => OpErrorKind::Internal,
        _ => OpErrorKind::Environment,
    }
}

impl From<FileError> for OpError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Cancelled => Self::Cancelled,
            error => Self::File(Arc::new(error)),
        }
    }
}

impl From<SessionError> for OpError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Cancelled => Self::Cancelled,
            error => Self::Session(Arc::new(error)),
        }
    }
}

impl From<SysError> for OpError {
    fn from(error: SysError) -> Self {
        Self::Sys(Arc::new(error))
    }
}

impl From<tokio::task::JoinError> for OpError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal { detail: error.to_string() }
    }
}
