use std::sync::Arc;

use async_trait::async_trait;
use rbuild_frontend::{BridgeRef, BuildError, DirEntry, ErrorCode, FileRange};
use rbuild_llb::Definition;
use rbuild_store::Ref;
use tokio::sync::OnceCell;

use crate::bridge::BuildContext;
use crate::files;

/// A lazy handle on the head of a definition, computed at most once.
#[derive(Debug)]
pub(crate) struct BuildRef {
    context: Arc<BuildContext>,
    definition: Definition,
    solved: OnceCell<Option<Ref>>,
}

impl BuildRef {
    pub(crate) fn new(context: Arc<BuildContext>, definition: Definition) -> Self {
        Self { context, definition, solved: OnceCell::new() }
    }

    /// Computes the output; `None` is scratch. A failure is not remembered.
    pub(crate) async fn solve(&self) -> Result<Option<Ref>, BuildError> {
        let solved = self.solved.get_or_try_init(|| self.context.solve_definition(&self.definition));
        solved.await.cloned()
    }

    async fn tree(&self, path: &str) -> Result<rbuild_store::TreeGuard, BuildError> {
        match self.solve().await? {
            Some(reference) => reference.tree().await.map_err(|error| files::store_error(&error)),
            None => Err(BuildError::new(ErrorCode::NotFound, format!("{path}: the file system is empty"))),
        }
    }
}

#[async_trait]
impl BridgeRef for BuildRef {
    fn definition(&self) -> Definition {
        self.definition.clone()
    }

    async fn evaluate(&self) -> Result<(), BuildError> {
        self.solve().await.map(drop)
    }

    async fn read_file(&self, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, BuildError> {
        let tree = self.tree(path).await?;
        let path = path.to_owned();
        files::blocking(move || files::read_file(tree.root(), &path, range)).await
    }

    async fn read_dir(&self, path: &str, include: &str) -> Result<Vec<DirEntry>, BuildError> {
        let tree = self.tree(path).await?;
        let (path, include) = (path.to_owned(), include.to_owned());
        files::blocking(move || files::read_dir(tree.root(), &path, &include)).await
    }

    async fn stat_file(&self, path: &str) -> Result<DirEntry, BuildError> {
        let tree = self.tree(path).await?;
        let path = path.to_owned();
        files::blocking(move || files::stat_file(tree.root(), &path)).await
    }
}
