//! Content digests of paths, equal to upstream's so that cache keys made of them interchange.
//!
//! [`FileHeader`] is what a digest sees of one file besides its bytes; `Tree` is the Merkle tree of a ref, filled as
//! far as somebody asked; `scan` fills it from disk, `select` answers questions with patterns. A ref never changes,
//! so each *answer* is kept in the database (32 bytes); trees are kept in memory only, up to a bound.

mod header;
mod scan;
mod select;
mod tree;

use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_digest::{Digest, Hasher};

pub use self::header::FileHeader;
pub use self::tree::EntryKind;
pub(crate) use self::tree::Tree;
use crate::db::Table;
use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::refs::{Node, Ref, TreeGuard};
use crate::store::{Recent, Store, blocking};

/// Trees kept in memory. A tree costs about 100 bytes a file.
const MAX_TREES: usize = 64;
/// A tree of more nodes is not kept after the question was answered.
const MAX_KEPT_NODES: usize = 500_000;

/// Which files of a tree a content digest covers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChecksumOptions {
    /// Follow a symbolic link at the end of the path.
    pub follow_links: bool,
    /// The path is a pattern (`*`, `?`, `[…]`).
    pub wildcard: bool,
    /// Only files that match one of these, relative to what the path names.
    pub include: Vec<String>,
    /// No files that match one of these.
    pub exclude: Vec<String>,
}

/// A content digest cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// Nothing is at the path.
    #[error("{path:?}: not found")]
    NotFound {
        /// As it was asked for.
        path: String,
    },
    /// Symbolic links lead in a circle.
    #[error("{path:?}: too many symbolic links")]
    TooManyLinks {
        /// As it was asked for.
        path: String,
    },
    /// A pattern cannot be read.
    #[error("invalid pattern: {reason}")]
    Pattern {
        /// Which, and why.
        reason: String,
    },
}

/// Paths and digests, in the order of a walk.
pub type PathDigests = Vec<(Vec<u8>, Digest)>;

pub(crate) type SharedTree = Arc<Mutex<Tree>>;

/// The trees of refs somebody asked about lately.
#[derive(Debug)]
pub(crate) struct TreeCache(Recent<RefId, SharedTree>);

impl Default for TreeCache {
    fn default() -> Self {
        Self(Recent::new(MAX_TREES))
    }
}

impl TreeCache {
    pub(crate) fn forget(&mut self, id: &RefId) {
        self.0.remove(id);
    }
}

impl Ref {
    /// Content digest of what is at `path` (`/` separated bytes, relative to the root of the tree).
    ///
    /// Fetches and unpacks the ref unless the answer is known. With a wildcard or patterns, nothing found is not an
    /// error but the digest of nothing. Errors: [`StoreError::is_not_found`].
    pub async fn checksum(&self, path: impl AsRef<[u8]>, options: &ChecksumOptions) -> Result<Digest> {
        let path = path.as_ref().to_vec();
        let key = question(&self.node.id, &path, options);
        if let Some(known) = self.store.inner.db.get(Table::Checksums, &key)?
            && let Ok(bytes) = known.try_into()
        {
            return Ok(Digest::from_bytes(bytes));
        }
        let (tree, kept) = self.store.tree_of(&self.node);
        let known = {
            let (tree, path, options) = (tree.clone(), path.clone(), options.clone());
            blocking(move || answer(&mut tree.lock(), None, &path, &options)).await?
        };
        let digest = match known {
            Some(digest) => digest,
            None => {
                let files = self.tree().await?;
                let (tree, path, options) = (tree.clone(), path.clone(), options.clone());
                let found = blocking(move || answer(&mut tree.lock(), Some(&files), &path, &options)).await?;
                found.ok_or_else(|| StoreError::corrupt("checksums", "a tree that was read is incomplete"))?
            }
        };
        if !kept && tree.lock().len() > MAX_KEPT_NODES {
            self.store.inner.trees.lock().0.remove(&self.node.id);
        }
        let this = self.clone();
        blocking(move || {
            // The view of a local context may change its meaning; only what has a row has lasting answers.
            if this.node.hold.lock().is_some() {
                return Ok(());
            }
            this.store.inner.db.update(|tx| {
                if tx.get(Table::Refs, this.node.id.as_bytes())?.is_none() {
                    return Ok(());
                }
                tx.put(Table::Checksums, &key, digest.as_bytes())
            })
        })
        .await?;
        Ok(digest)
    }
}

impl Ref {
    /// What [`Ref::checksum`] covers for the same question, as far as it is in memory: paths from the root of the tree,
    /// without a slash in front, and the digest of each file or directory header. Never reads a file.
    ///
    /// `None`: nobody asked for the digest lately, or there are more than `limit` entries.
    pub async fn contents_known(
        &self,
        path: impl AsRef<[u8]>,
        options: &ChecksumOptions,
        limit: usize,
    ) -> Result<Option<PathDigests>> {
        let (tree, _) = self.store.tree_of(&self.node);
        let (path, options) = (path.as_ref().to_vec(), options.clone());
        blocking(move || {
            let mut tree = tree.lock();
            let mut filler = scan::Filler { tree: &mut tree, files: None };
            let found = if options.has_patterns() {
                select::list(&mut filler, &path, &options)?.filter(|list| list.len() <= limit)
            } else {
                filler.entries(&key_path(&path), options.follow_links, limit)?
            };
            Ok(found.map(|mut list| {
                for (path, _) in &mut list {
                    if path.first() == Some(&b'/') {
                        path.remove(0);
                    }
                }
                list
            }))
        })
        .await
    }
}

impl ChecksumOptions {
    fn has_patterns(&self) -> bool {
        self.wildcard || !self.include.is_empty() || !self.exclude.is_empty()
    }
}

impl Store {
    /// The tree of a node, and whether the node itself keeps it.
    fn tree_of(&self, node: &Arc<Node>) -> (SharedTree, bool) {
        if let Some(tree) = &*node.tree.lock() {
            return (tree.clone(), true);
        }
        let mut cache = self.inner.trees.lock();
        if let Some(tree) = cache.0.get(&node.id) {
            return (tree.clone(), false);
        }
        let fresh = if node.row.lock().context { Tree::unknown_context() } else { Tree::unknown() };
        let tree = SharedTree::new(Mutex::new(fresh));
        cache.0.put(node.id, tree.clone());
        (tree, false)
    }
}

/// Key of an answer: the ref and a digest of the question.
fn question(id: &RefId, path: &[u8], options: &ChecksumOptions) -> Vec<u8> {
    let mut hash = Hasher::new();
    hash.field(path).update([u8::from(options.follow_links), u8::from(options.wildcard)]);
    for list in [&options.include, &options.exclude] {
        hash.update((list.len() as u64).to_le_bytes());
        for pattern in list {
            hash.field(pattern);
        }
    }
    [id.as_bytes(), &hash.finish().as_bytes()[..16]].concat()
}

/// Answers a question, reading what is missing from `files`. `None`: it takes reading, and there are no `files`.
fn answer(
    tree: &mut Tree,
    files: Option<&TreeGuard>,
    path: &[u8],
    options: &ChecksumOptions,
) -> Result<Option<Digest>> {
    let mut filler = scan::Filler { tree, files };
    if options.has_patterns() {
        return select::digest(&mut filler, path, options);
    }
    filler.path_digest(&key_path(path), options.follow_links)
}

/// The path made absolute and clean without looking at any file, the root being the empty path.
pub(crate) fn key_path(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.iter().flat_map(|name| std::iter::once(&b'/').chain(name.iter())).copied().collect()
}
