use redb::TableDefinition;

/// The tables. The number is what the journal calls a table: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Table {
    /// Version, features, boot id, number of the last transaction.
    Meta = 0,
    /// Ref id → [`crate::rows::RefRow`].
    Refs = 1,
    /// Chain id → ref id.
    Chains = 2,
    /// Record id → [`crate::records::RecordRow`].
    Records = 3,
    /// Cache key → record id.
    Keys = 4,
    /// Ref id, record id → nothing: which records go when a ref goes.
    Outputs = 5,
    /// Record id, cache key → nothing: which keys go when a record goes.
    RecordKeys = 6,
    /// Image name → [`crate::Image`].
    Images = 7,
    /// Id → [`crate::rows::NamedRow`].
    Named = 8,
    /// Space, NUL, key → value.
    Values = 9,
    /// Ref or named id → last use and count.
    Usage = 10,
    /// Mark of a ref → number of the transaction that wrote it.
    Unsynced = 11,
    /// Digest, owner → nothing: who needs a blob.
    Blobs = 12,
    /// Ref id, question → content digest.
    Checksums = 13,
    /// Ref id → inodes that may have names elsewhere, with their bytes: see `footprint.rs`.
    Shared = 14,
}

impl Table {
    pub(crate) const ALL: [Self; 15] = [
        Self::Meta,
        Self::Refs,
        Self::Chains,
        Self::Records,
        Self::Keys,
        Self::Outputs,
        Self::RecordKeys,
        Self::Images,
        Self::Named,
        Self::Values,
        Self::Usage,
        Self::Unsynced,
        Self::Blobs,
        Self::Checksums,
        Self::Shared,
    ];

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub(crate) fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name())
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Refs => "refs",
            Self::Chains => "chains",
            Self::Records => "records",
            Self::Keys => "keys",
            Self::Outputs => "outputs",
            Self::RecordKeys => "record_keys",
            Self::Images => "images",
            Self::Named => "named",
            Self::Values => "values",
            Self::Usage => "usage",
            Self::Unsynced => "unsynced",
            Self::Blobs => "blobs",
            Self::Checksums => "checksums",
            Self::Shared => "shared",
        }
    }
}
