use std::time::Duration;

use rbuild_sys::SysError;
use tonic::{Code, Status};

/// What can go wrong in a session or in a transfer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No session of that id is open (any more).
    #[error("no active session for {id}")]
    NotFound {
        /// The id asked for.
        id: String,
    },
    /// No session of a whole group is open.
    #[error("no active sessions")]
    NoSession,
    /// Somebody else has a session with that id.
    #[error("session {id} already exists")]
    Exists {
        /// The id.
        id: String,
    },
    /// The request that opens a session lacks something or is malformed.
    #[error("invalid session request: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// The client did not list the method.
    #[error("the client does not offer {method}")]
    Unsupported {
        /// Full gRPC method path.
        method: &'static str,
    },
    /// The session ended while it was needed.
    #[error("session {id} was closed by the client or lost")]
    Closed {
        /// The session.
        id: String,
    },
    /// A call was answered with an error.
    #[error("{call}: {}", .status.message())]
    Call {
        /// What was asked.
        call: String,
        /// The peer's answer.
        status: Box<Status>,
    },
    /// A value cannot be put into request metadata.
    #[error("`{key}` cannot be sent as request metadata")]
    Metadata {
        /// The key.
        key: String,
    },
    /// The other end of a transfer said that it failed.
    #[error("error from {peer}: {text}")]
    Remote {
        /// Which end: "sender" or "receiver".
        peer: &'static str,
        /// Its words.
        text: String,
    },
    /// The other end broke the rules of the transfer.
    #[error("invalid file transfer: {what}{}", at(.path))]
    Violation {
        /// Which rule.
        what: &'static str,
        /// The entry it is about; empty if none.
        path: String,
    },
    /// The stream ended early.
    #[error("file transfer ended before it was complete{}", after(.last))]
    Ended {
        /// The last entry that had arrived; empty if none.
        last: String,
    },
    /// The other end said nothing for too long.
    #[error("file transfer stalled: nothing arrived for {} s{}", .waited.as_secs(), after(.last))]
    Stalled {
        /// How long was waited.
        waited: Duration,
        /// The last entry that had arrived; empty if none.
        last: String,
    },
    /// A file became shorter, or unreadable, while it was sent.
    #[error(
        "`{path}` changed while it was sent: {announced} bytes were announced, {received} arrived (removed, truncated or not readable on the client)"
    )]
    Short {
        /// The file.
        path: String,
        /// Size in its STAT.
        announced: u64,
        /// Bytes that came.
        received: u64,
    },
    /// A pattern of the request is malformed.
    #[error("invalid {kind} pattern: {text}")]
    Pattern {
        /// include, exclude or follow.
        kind: &'static str,
        /// The matcher's words.
        text: String,
    },
    /// A limit was passed.
    #[error("file transfer refused: more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The disk.
    #[error(transparent)]
    Disk(#[from] SysError),
    /// Reading or writing something else than the disk.
    #[error("{what}: {}", in_words(source))]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A stored index cannot be used.
    #[error("stored tree index is damaged: {what}")]
    Index {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A setting of the client (docker configuration, secret, agent) cannot be used.
    #[error("{what}")]
    Config {
        /// What is wrong, naming the file or id.
        what: String,
    },
    /// The work was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl SessionError {
    /// The gRPC code that fits.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::NoSession => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Invalid { .. } | Self::Pattern { .. } | Self::Metadata { .. } => Code::InvalidArgument,
            Self::Unsupported { .. } => Code::Unimplemented,
            Self::Closed { .. } | Self::Ended { .. } => Code::Unavailable,
            Self::Call { status, .. } => status.code(),
            Self::Stalled { .. } => Code::DeadlineExceeded,
            Self::Limit { .. } => Code::ResourceExhausted,
            Self::Cancelled => Code::Cancelled,
            Self::Violation { .. } | Self::Config { .. } => Code::FailedPrecondition,
            _ => Code::Unknown,
        }
    }

    /// The peer has no such thing (secret, directory, agent, session).
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    /// The client cannot do what was asked at all.
    pub fn is_unsupported(&self) -> bool {
        self.code() == Code::Unimplemented
    }

    /// The session is gone; another one may still do.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::NotFound { .. } | Self::NoSession)
    }

    /// The disk is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Disk(err) => err.is_no_space(),
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    pub(crate) fn call(call: impl Into<String>, status: Status) -> Self {
        Self::Call { call: call.into(), status: Box::new(status) }
    }

    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    pub(crate) fn violation(what: &'static str, path: impl Into<String>) -> Self {
        Self::Violation { what, path: path.into() }
    }
}

/// An error of the system without its number.
fn in_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

impl From<SessionError> for Status {
    fn from(err: SessionError) -> Status {
        match err {
            SessionError::Call { status, .. } => *status,
            err => Status::new(err.code(), err.to_string()),
        }
    }
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at `{}`", path.escape_debug()) }
}

fn after(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(" (after `{}`)", last.escape_debug()) }
}
