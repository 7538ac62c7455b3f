/// A pattern is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern `{pattern}`: {reason}")]
pub struct PatternError {
    /// The pattern as it was given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl PatternError {
    pub(crate) fn new(pattern: &str, reason: &'static str) -> Self {
        Self { pattern: pattern.to_owned(), reason }
    }
}
