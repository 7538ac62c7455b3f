use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use rbuild_frontend::{BridgeRef, BuildError, DirEntry, ErrorCode, FileRange, SharedRef};
use rbuild_llb::Definition;
use rbuild_store::{Ref, TreeGuard};
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

    async fn tree(&self, path: &str) -> Result<TreeGuard, BuildError> {
        self.context.capture.was_read(&self.definition);
        let missing = || BuildError::new(ErrorCode::NotFound, format!("{path}: the file system is empty"));
        tree(&self.solve().await?.ok_or_else(missing)?).await
    }
}

async fn tree(reference: &Ref) -> Result<TreeGuard, BuildError> {
    reference.tree().await.map_err(|error| files::store_error(&error))
}

/// What a handle stands for, computed if need be; `None` is scratch.
pub(crate) async fn output(context: &BuildContext, handle: &SharedRef) -> Result<Option<Ref>, BuildError> {
    let any: &dyn Any = &**handle;
    match any.downcast_ref::<HeldRef>() {
        Some(HeldRef(held)) => Ok(Some(held.clone())),
        // Solved in this job before or not: the job remembers.
        None => context.solve_definition(&handle.definition()).await,
    }
}

#[async_trait]
impl BridgeRef for BuildRef {
    fn definition(&self) -> Definition {
        self.definition.clone()
    }

    async fn evaluate(&self) -> Result<(), BuildError> {
        self.context.capture.was_read(&self.definition);
        self.solve().await.map(drop)
    }

    async fn read_file(&self, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, BuildError> {
        read_file(self.tree(path).await?, path, range).await
    }

    async fn read_dir(&self, path: &str, include: &str) -> Result<Vec<DirEntry>, BuildError> {
        read_dir(self.tree(path).await?, path, include).await
    }

    async fn stat_file(&self, path: &str) -> Result<DirEntry, BuildError> {
        stat_file(self.tree(path).await?, path).await
    }
}

/// What a failed step had or left: a file system that no definition leads to.
#[derive(Debug)]
pub(crate) struct HeldRef(pub(crate) Ref);

#[async_trait]
impl BridgeRef for HeldRef {
    fn definition(&self) -> Definition {
        Definition::default()
    }

    async fn evaluate(&self) -> Result<(), BuildError> {
        Ok(())
    }

    async fn read_file(&self, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, BuildError> {
        read_file(tree(&self.0).await?, path, range).await
    }

    async fn read_dir(&self, path: &str, include: &str) -> Result<Vec<DirEntry>, BuildError> {
        read_dir(tree(&self.0).await?, path, include).await
    }

    async fn stat_file(&self, path: &str) -> Result<DirEntry, BuildError> {
        stat_file(tree(&self.0).await?, path).await
    }
}

async fn read_file(tree: TreeGuard, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, BuildError> {
    let path = path.to_owned();
    files::blocking(move || files::read_file(tree.root(), &path, range)).await
}

async fn read_dir(tree: TreeGuard, path: &str, include: &str) -> Result<Vec<DirEntry>, BuildError> {
    let (path, include) = (path.to_owned(), include.to_owned());
    files::blocking(move || files::read_dir(tree.root(), &path, &include)).await
}

async fn stat_file(tree: TreeGuard, path: &str) -> Result<DirEntry, BuildError> {
    let path = path.to_owned();
    files::blocking(move || files::stat_file(tree.root(), &path)).await
}
