//! What can go wrong while a process is run.

use rbuild_sys::SysError;
use serde::{Deserialize, Serialize};

/// Why there is no exit status.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program could not be started: no such file, not executable, wrong format.
    #[error("{message}")]
    Start {
        /// In the words that tools look for, for instance ``exec: "foo": executable file not found in $PATH``.
        message: String,
        /// What a shell would answer: 127 if there is no such program, else 126.
        exit_code: u32,
    },
    /// The user or group of the step is not in the image.
    #[error("{0}")]
    User(String),
    /// The sandbox could not be set up.
    #[error("{stage}: {message}")]
    Setup {
        /// What was being done.
        stage: String,
        /// What went wrong, with call, path and cause.
        message: String,
    },
    /// The specification asks for something impossible.
    #[error("{field}: {message}")]
    Invalid {
        /// Which part of the specification.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        message: String,
    },
    /// The step was cancelled; all its processes are gone.
    #[error("cancelled")]
    Cancelled,
    /// The helper process that starts containers ended; the container ended with it.
    #[error("the sandbox helper ended unexpectedly (out of memory?); the step was killed with it")]
    HelperGone,
    /// A sink or source of the step's data failed.
    #[error("{stream}: {source}")]
    Stream {
        /// Which of the streams.
        stream: &'static str,
        /// Its error.
        source: std::io::Error,
    },
    /// A system call failed on the daemon's side.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The runtime binary given by the configuration failed.
    #[error("{binary}: {message}")]
    Runtime {
        /// Path of the binary.
        binary: String,
        /// What it wrote.
        message: String,
    },
}

impl ExecError {
    /// The exit code that a user would see for this error, if it is one that a shell has a code for.
    pub fn exit_code(&self) -> Option<u32> {
        match self {
            ExecError::Start { exit_code, .. } => Some(*exit_code),
            _ => None,
        }
    }

    /// Was this the user's doing (and not the machine's)?
    pub fn is_users(&self) -> bool {
        matches!(self, ExecError::Start { .. } | ExecError::User(_) | ExecError::Invalid { .. })
    }
}

/// An error on its way from the container's first process to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    Start { message: String, exit_code: u32 },
    User(String),
    Setup { stage: String, message: String },
}

impl Failure {
    /// `stage` failed because of `cause`.
    pub(crate) fn setup(stage: impl Into<String>, cause: impl std::fmt::Display) -> Failure {
        Failure::Setup { stage: stage.into(), message: cause.to_string() }
    }
}

impl From<Failure> for ExecError {
    fn from(failure: Failure) -> ExecError {
        match failure {
            Failure::Start { message, exit_code } => ExecError::Start { message, exit_code },
            Failure::User(message) => ExecError::User(message),
            Failure::Setup { stage, message } => ExecError::Setup { stage, message },
        }
    }
}

/// Names the stage in which something failed.
pub(crate) trait During<T> {
    fn during(self, stage: &str) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> During<T> for Result<T, E> {
    fn during(self, stage: &str) -> Result<T, Failure> {
        self.map_err(|err| Failure::setup(stage, err))
    }
}
