use rbuild_registry::RegistryError;
use rbuild_session::SessionError;
use rbuild_store::StoreError;

/// A result could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No exporter of that type.
    #[error("exporter `{0}` is not known: expected image, local, tar, oci, docker or cacheonly")]
    UnknownType(String),
    /// An attribute that the exporter does not have.
    #[error("{exporter} exporter: unknown attribute `{name}`")]
    UnknownAttribute {
        /// The exporter's type.
        exporter: String,
        /// The attribute.
        name: String,
    },
    /// An attribute that asks for what is not there.
    #[error("{exporter} exporter: `{name}={value}` is not supported by rbuildd yet")]
    Unsupported {
        /// The exporter's type.
        exporter: String,
        /// The attribute.
        name: String,
        /// What was asked.
        value: String,
    },
    /// An attribute's value makes no sense.
    #[error("{exporter} exporter: `{name}={value}`: {expected}")]
    Attribute {
        /// The exporter's type.
        exporter: String,
        /// The attribute.
        name: String,
        /// Its value.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// The result is not what this exporter can take.
    #[error("{0}")]
    Result(String),
    /// The client is not there, or went away.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Content could not be read or written.
    #[error("{0}")]
    Content(String),
    /// The registry refused or failed.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// Reading or writing files.
    #[error("{what}: {source}")]
    Io {
        /// What was done to which path.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A task of ours ended without a result.
    #[error("export: {0}")]
    Internal(String),
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportErrorKind {
    /// The request is wrong.
    Invalid,
    /// The feature is missing.
    Unsupported,
    /// The disk is full.
    NoSpace,
    /// A client or a registry failed.
    Peer,
    /// Anything else.
    Other,
}

impl ExportError {
    /// Classifies the failure.
    pub fn kind(&self) -> ExportErrorKind {
        match self {
            Self::UnknownType(_)
            | Self::UnknownAttribute { .. }
            | Self::Attribute { .. }
            | Self::Result(_) => ExportErrorKind::Invalid,
            Self::Unsupported { .. } => ExportErrorKind::Unsupported,
            Self::Store(error) if error.is_no_space() => ExportErrorKind::NoSpace,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ExportErrorKind::NoSpace
            }
            Self::Session(_) | Self::Registry(_) => ExportErrorKind::Peer,
            Self::Store(_) | Self::Content(_) | Self::Io { .. } | Self::Internal(_) => ExportErrorKind::Other,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
