//! The rows about refs and named directories. JSON: there are thousands of them, not millions, and fields get added.

use rbuild_digest::Digest;
use rbuild_oci::Descriptor;
use rbuild_snapshot::SnapshotId;
use serde::{Deserialize, Serialize};

use crate::db::{Db, Table, Tx};
use crate::error::{Result, StoreError};
use crate::id::RefId;

/// What a thing on disk is for, as upstream's `du` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum RecordType {
    /// Result of a step, or a layer of an image.
    #[default]
    #[serde(rename = "regular")]
    Regular,
    /// Files that a client sent.
    #[serde(rename = "source.local")]
    SourceLocal,
    /// A git checkout.
    #[serde(rename = "source.git.checkout")]
    SourceGitCheckout,
    /// A cache mount.
    #[serde(rename = "exec.cachemount")]
    ExecCacheMount,
    /// Image of a frontend.
    #[serde(rename = "frontend")]
    Frontend,
    /// Needed to do the work, of no interest by itself.
    #[serde(rename = "internal")]
    Internal,
}

impl RecordType {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::SourceLocal => "source.local",
            Self::SourceGitCheckout => "source.git.checkout",
            Self::ExecCacheMount => "exec.cachemount",
            Self::Frontend => "frontend",
            Self::Internal => "internal",
        }
    }

    /// Parses a name from the wire.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Regular,
            Self::SourceLocal,
            Self::SourceGitCheckout,
            Self::ExecCacheMount,
            Self::Frontend,
            Self::Internal,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
    }
}

/// What a ref is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A layer of its own on top of `parent`.
    Layer {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<RefId>,
    },
    /// The own layers of other refs, lowest first (a merge, or a diff between an ancestor and its descendant).
    Stack { layers: Vec<RefId> },
    /// A layer that is still to be computed: what turns `lower` into `upper`.
    Diff { lower: Option<RefId>, upper: Option<RefId> },
}

/// A layer archive of a ref in some compression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRow {
    pub(crate) desc: Descriptor,
    /// It can be fetched again from the layer's origin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) remote: bool,
}

/// A ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRow {
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotId>,
    /// The layer and all below it as one snapshot: for chains that are too long to be stacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flat: Option<SnapshotId>,
    /// Digest of the uncompressed layer archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) diff_id: Option<Digest>,
    /// Identity of the layer and all below, if it has one that does not depend on this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chain: Option<Digest>,
    /// Blobs of the layer, one per compression; whether one is here the content store knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) blobs: Vec<BlobRow>,
    /// Where the remote blobs can be fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    pub(crate) created_ms: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) record_type: RecordType,
    /// Bytes of the snapshots that are nobody else's, once somebody asked; what others may have too is in the table
    /// `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) own_size: Option<u64>,
    /// Sent by a client: its root directory has no header of its own in content digests.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) context: bool,
}

impl RefRow {
    pub(crate) fn new(kind: Kind, description: &str, record_type: RecordType) -> Self {
        Self {
            kind,
            snapshot: None,
            flat: None,
            diff_id: None,
            chain: None,
            blobs: Vec::new(),
            origin: None,
            created_ms: now_ms(),
            description: description.to_owned(),
            record_type,
            own_size: None,
            context: false,
        }
    }

    /// The refs that this one cannot be without.
    pub(crate) fn needs(&self) -> Vec<RefId> {
        match &self.kind {
            Kind::Layer { parent } => parent.iter().copied().collect(),
            Kind::Stack { layers } => layers.clone(),
            Kind::Diff { lower, upper } => lower.iter().chain(upper).copied().collect(),
        }
    }

    /// See [`crate::Ref::lends_files`].
    pub(crate) fn lends_files(&self) -> bool {
        let is_checkout = self.record_type == RecordType::SourceGitCheckout;
        self.context || (is_checkout && matches!(self.kind, Kind::Layer { parent: None }))
    }

    /// Whether there is neither a snapshot nor anything to make one of.
    pub(crate) fn is_hollow(&self) -> bool {
        matches!(self.kind, Kind::Layer { .. }) && self.snapshot.is_none() && self.blobs.is_empty()
    }
}

/// What kind of named directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NamedKind {
    CacheMount,
    LocalContext,
    GitRepository,
}

/// A directory that is found again by a name: a cache mount or the last state of a local context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamedRow {
    pub(crate) kind: NamedKind,
    pub(crate) key: String,
    pub(crate) snapshot: SnapshotId,
    /// What lies below a cache mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<RefId>,
    pub(crate) created_ms: i64,
    pub(crate) description: String,
}

pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn to_json<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows are plain data")
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::corrupt(table.name(), error))
}

pub(crate) fn get_ref(db: &Db, id: &RefId) -> Result<Option<RefRow>> {
    db.get(Table::Refs, id.as_bytes())?.map(|bytes| from_json(Table::Refs, &bytes)).transpose()
}

/// How a ref's mark in the table of what is not synced yet begins.
pub(crate) const MARK_REF: &[u8] = b"r:";

/// Key of a ref's mark in the table of what is not synced yet.
pub(crate) fn mark_ref(id: &RefId) -> Vec<u8> {
    [MARK_REF, id.as_bytes()].concat()
}

/// Row that says that `owner` needs a blob.
pub(crate) fn blob_need(digest: &Digest, owner: &[u8]) -> Vec<u8> {
    [&digest.as_bytes()[..], owner].concat()
}

/// Writes a ref's row and what follows from it.
pub(crate) fn put_ref(tx: &mut Tx<'_>, id: &RefId, row: &RefRow) -> Result<()> {
    for blob in &row.blobs {
        tx.put(Table::Blobs, &blob_need(&blob.desc.digest, id.as_bytes()), b"")?;
    }
    if let Some(chain) = &row.chain
        && tx.get(Table::Chains, chain.as_bytes())?.is_none()
    {
        tx.put(Table::Chains, chain.as_bytes(), id.as_bytes())?;
    }
    tx.put(Table::Refs, id.as_bytes(), &to_json(row))
}

/// Removes a ref's row, the records that lead to it, and everything else that names it. Gives back the blobs that
/// nobody needs any more.
pub(crate) fn delete_ref(tx: &mut Tx<'_>, id: &RefId, row: &RefRow) -> Result<Vec<Digest>> {
    for (key, _) in tx.scan(Table::Outputs, id.as_bytes())? {
        crate::records::delete_record(tx, &key[id.as_bytes().len()..])?;
    }
    if let Some(chain) = &row.chain
        && tx.get(Table::Chains, chain.as_bytes())?.as_deref() == Some(id.as_bytes())
    {
        tx.delete(Table::Chains, chain.as_bytes())?;
    }
    tx.delete_prefix(Table::Checksums, id.as_bytes())?;
    tx.delete(Table::Shared, id.as_bytes())?;
    tx.delete(Table::Usage, id.as_bytes())?;
    if tx.get(Table::Unsynced, &mark_ref(id))?.is_some() {
        tx.delete(Table::Unsynced, &mark_ref(id))?;
    }
    tx.delete(Table::Refs, id.as_bytes())?;
    release_blobs(tx, row.blobs.iter().map(|blob| blob.desc.digest), id.as_bytes())
}

/// `owner` does not need these blobs any more. Gives back those that nobody needs.
pub(crate) fn release_blobs(
    tx: &mut Tx<'_>,
    blobs: impl IntoIterator<Item = Digest>,
    owner: &[u8],
) -> Result<Vec<Digest>> {
    let mut free = Vec::new();
    for digest in blobs {
        tx.delete(Table::Blobs, &blob_need(&digest, owner))?;
        if tx.scan(Table::Blobs, digest.as_bytes())?.is_empty() {
            free.push(digest);
        }
    }
    Ok(free)
}
