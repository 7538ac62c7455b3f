/// An address of a git repository is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// The address itself can't be read.
    #[error("invalid git url `{url}`: {reason}")]
    Url {
        /// The address, without user and password.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A ref that git would refuse or misread.
    #[error("invalid git ref `{name}`: {reason}")]
    Ref {
        /// The ref.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A subdirectory that leaves the repository.
    #[error("invalid git subdirectory `{subdir}`: {reason}")]
    Subdir {
        /// The subdirectory.
        subdir: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// An option that doesn't exist.
    #[error("unexpected query \"{0}\"")]
    UnknownQuery(String),
    /// An option without the value it needs.
    #[error("query \"{0}\" has no value")]
    NoValue(String),
    /// An option that is given more than once.
    #[error("query \"{0}\" has multiple values")]
    ManyValues(String),
    /// The value of an option is none of those it may have.
    #[error("invalid {name} value: \"{value}\"{hint}")]
    Value {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// Which values there are, in parentheses after a space, if that isn't obvious.
        hint: &'static str,
    },
    /// Two parts of the address name different things.
    #[error("{what} conflicts: \"{first}\" vs \"{second}\"")]
    Conflict {
        /// `ref`, `subdir` or `checksum`.
        what: &'static str,
        /// What stands first.
        first: String,
        /// What stands later.
        second: String,
    },
    /// A branch and a tag at once.
    #[error("branch conflicts with tag")]
    BranchAndTag,
}
