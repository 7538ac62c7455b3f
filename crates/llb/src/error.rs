use rbuild_digest::{Digest, ParseDigestError};

/// A definition is not acceptable, or a state cannot be marshalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LlbError {
    /// More ops than a definition may have.
    #[error("definition has {count} ops, at most {limit} are allowed")]
    TooManyOps {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// One op is larger than any legal message.
    #[error("op {index} of the definition has {size} bytes, at most {limit} are allowed")]
    OpTooLarge {
        /// Position in the definition.
        index: usize,
        /// Its size.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The bytes of an op are not a protobuf message.
    #[error("op {index} of the definition: {source}")]
    Decode {
        /// Position in the definition.
        index: usize,
        /// What the decoder met.
        source: prost::DecodeError,
    },
    /// An op breaks a rule of its kind.
    #[error("vertex {vertex}: {source}")]
    Op {
        /// Which vertex.
        vertex: Digest,
        /// What is wrong with it.
        source: OpError,
    },
    /// The same op stands twice in one definition.
    #[error("vertex {0} appears twice in the definition")]
    DuplicateOp(Digest),
    /// An op names an input that the definition doesn't hold.
    #[error("vertex {vertex} needs input {input}, which is not in the definition")]
    MissingInput {
        /// Who needs it.
        vertex: Digest,
        /// What is missing.
        input: Digest,
    },
    /// An op asks for an output that its input doesn't have.
    #[error("vertex {vertex} needs output {index} of {input}, which has {outputs}")]
    NoSuchOutput {
        /// Who needs it.
        vertex: Digest,
        /// Whose output.
        input: Digest,
        /// Which output.
        index: u32,
        /// How many outputs it has.
        outputs: u32,
    },
    /// Ops depend on each other in a circle.
    #[error("definition has a cycle through vertex {0}")]
    Cycle(Digest),
    /// The last op is not a terminal: an empty op with exactly one input.
    #[error("definition doesn't end with a terminal (an op without a kind and with one input)")]
    NoTerminal,
    /// A key of the metadata or of the source map is not a digest.
    #[error("key of {map}: {source}")]
    Key {
        /// Which map.
        map: &'static str,
        /// Why the key is refused.
        source: ParseDigestError,
    },
    /// A source location names a source that isn't there.
    #[error("source location of {vertex} names source {index} of {count}")]
    SourceIndex {
        /// Whose location.
        vertex: Digest,
        /// Which source.
        index: i32,
        /// How many sources there are.
        count: usize,
    },
    /// More sources than a definition may have.
    #[error("definition has {count} sources, at most {limit} are allowed")]
    TooManySources {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Definitions within definitions, too many levels of them.
    #[error("definitions are nested more than {0} levels deep")]
    NestedTooDeep(u32),
    /// A builder was given something that cannot be an op.
    #[error("{0}")]
    Build(BuildProblem),
}

/// Why a state cannot be marshalled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildProblem {
    /// A process needs arguments.
    #[error("arguments are required")]
    NoArgs,
    /// A process needs a working directory.
    #[error("working directory is required")]
    NoCwd,
    /// A source without a name.
    #[error("source identifier can't be empty")]
    NoIdentifier,
    /// A file op without actions.
    #[error("action is required")]
    NoAction,
    /// A tmpfs starts empty.
    #[error("tmpfs mounts must use scratch")]
    TmpfsSource,
    /// That mount has no output to go on from.
    #[error("mount `{0}` has no output")]
    NoMountOutput(String),
    /// Not an image name.
    #[error("invalid image name `{name}`: {reason}")]
    ImageName {
        /// What was given.
        name: String,
        /// Why it is refused.
        reason: String,
    },
}

/// An op breaks a rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// Neither exec nor source nor any other kind that we know.
    #[error("unknown kind of op")]
    UnknownKind,
    /// An enum has a value that we don't know; guessing could grant something.
    #[error("{field} has the unknown value {value}")]
    UnknownEnum {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An index is negative or beyond the end.
    #[error("{field} is {index}, which is out of range (there are {count})")]
    Index {
        /// Which field.
        field: &'static str,
        /// Its value.
        index: i64,
        /// The first value that is too large.
        count: usize,
    },
    /// Two things claim one output.
    #[error("output {0} is given twice")]
    DuplicateOutput(i64),
    /// A number is outside of what the field can mean.
    #[error("{field} is {value}, which is out of range")]
    Range {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// A digest is malformed.
    #[error(transparent)]
    Digest(#[from] ParseDigestError),
    /// The definition within a build op is not acceptable.
    #[error("nested definition: {0}")]
    Nested(Box<LlbError>),
}
