use std::sync::Arc;

use rbuild_sys::{Mount, MountTree, Root};

use crate::error::Result;
use crate::refs::Node;

/// A tree that is open: mounted if it has to be, and kept on disk while this lives.
#[derive(Debug)]
pub struct TreeGuard {
    root: Root,
    /// Holds the mount; gone with it.
    _mount: Option<MountTree>,
    _node: Option<Arc<Node>>,
}

impl TreeGuard {
    /// Opens a mount. A directory is opened as it is, without mounting. Blocking.
    pub(crate) fn open(mount: &Mount, node: Option<Arc<Node>>) -> Result<Self> {
        if let Mount::Bind { source, .. } = mount {
            return Ok(Self { root: Root::open(source)?, _mount: None, _node: node });
        }
        let mount = MountTree::new(mount)?;
        Ok(Self { root: mount.root()?, _mount: Some(mount), _node: node })
    }

    /// Its root directory.
    pub fn root(&self) -> &Root {
        &self.root
    }
}
