use rbuild_digest::Digest;

/// Why a registry could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The manifest, blob or repository does not exist.
    #[error("{what}: not found at {host}{}", words(.detail))]
    NotFound {
        /// Host that was asked.
        host: String,
        /// Reference or digest, with its repository.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// Credentials are missing or wrong.
    #[error("{what}: {host} refused: authorization failed{}", words(.detail))]
    Unauthorized {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// The credentials do not allow it.
    #[error("{what}: {host} refused: denied{}", words(.detail))]
    Denied {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// The registry's own words.
        detail: String,
    },
    /// Another answer that is no success.
    #[error("{what}: unexpected status from {host}: {status}{}", words(.detail))]
    Status {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// The code.
        status: u16,
        /// The registry's own words.
        detail: String,
    },
    /// No connection, or it broke.
    #[error("{what}: cannot reach {host}: {reason}")]
    Transport {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// The chain of causes.
        reason: String,
    },
    /// No answer, or nothing more of it, in time.
    #[error("{what}: {host} did not answer within {seconds} s")]
    Timeout {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// How long we waited.
        seconds: u64,
    },
    /// Content that is not what its digest says.
    #[error("{what}: {host} sent content with digest {found}, expected {expected}")]
    Digest {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// Wanted.
        expected: Digest,
        /// Seen.
        found: Digest,
    },
    /// Content that is not as long as its descriptor says.
    #[error("{what}: {host} sent {found} bytes, expected {expected}")]
    Size {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// Wanted.
        expected: u64,
        /// Seen.
        found: u64,
    },
    /// More than we are willing to hold in memory.
    #[error("{what}: {host} sent more than {limit} bytes")]
    TooLarge {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// An answer that breaks the protocol.
    #[error("{what}: {host} sent a malformed answer: {reason}")]
    Malformed {
        /// Host that was asked.
        host: String,
        /// What was wanted.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The token service of a registry failed.
    #[error("{host}: cannot get a token from {realm}: {reason}")]
    Token {
        /// The registry.
        host: String,
        /// The token service.
        realm: String,
        /// What happened.
        reason: String,
    },
    /// Credentials could not be asked for.
    #[error("cannot get credentials for {host}: {reason}")]
    Credentials {
        /// The registry.
        host: String,
        /// What happened.
        reason: String,
    },
    /// An index has nothing for the platform.
    #[error("{what}: no match for platform {wanted} in manifest list (it has {offered})")]
    NoPlatform {
        /// The image.
        what: String,
        /// The platform.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// A manifest of a kind that is not an image.
    #[error("{what}: unsupported manifest media type `{media_type}`")]
    MediaType {
        /// The image.
        what: String,
        /// What it is.
        media_type: String,
    },
    /// The configuration of a host does not work.
    #[error("registry {host}: {reason}")]
    Config {
        /// The registry.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes to push could not be read.
    #[error("{what}: cannot read what is to be pushed: {source}")]
    Read {
        /// The blob.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What will be the same in a moment: a name that does not exist, a redirect that we do not follow, an answer that is
/// no proper one. The causes of a transport's failure are known by their text only.
const FINAL: [&str; 5] = [
    "Name or service not known",
    crate::endpoint::TOO_MANY_REDIRECTS,
    crate::endpoint::REDIRECT_TO_HTTP,
    crate::endpoint::REDIRECT_TO_LINK_LOCAL,
    "message head is too large",
];

fn words(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl RegistryError {
    /// Whether the thing asked for does not exist (as opposed to could not be asked for).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether credentials are the problem.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Denied { .. })
    }

    /// Whether trying again may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Transport { reason, .. } => !FINAL.iter().any(|text| reason.contains(text)),
            Self::Timeout { .. } => true,
            Self::Status { status, .. } => is_transient(*status),
            _ => false,
        }
    }
}

impl From<RegistryError> for std::io::Error {
    fn from(error: RegistryError) -> Self {
        use std::io::ErrorKind;
        let kind = match &error {
            RegistryError::NotFound { .. } => ErrorKind::NotFound,
            RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => ErrorKind::PermissionDenied,
            RegistryError::Timeout { .. } => ErrorKind::TimedOut,
            RegistryError::Digest { .. } | RegistryError::Size { .. } | RegistryError::Malformed { .. } => {
                ErrorKind::InvalidData
            }
            _ => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Codes of servers that may be well again in a moment.
pub(crate) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}
