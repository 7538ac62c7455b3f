use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_llb::{Definition, SourceLocation, SourceOp, SourcePolicy};
use rbuild_oci::Platform;

use crate::{BridgeContainer, BuildError, ContainerRequest, FrontendProcess, FrontendResult};

/// All that a frontend may ask of the daemon, within one build.
#[async_trait]
pub trait Bridge: Send + Sync + std::fmt::Debug {
    /// Solves a definition, or runs another frontend. Lazy: nothing is executed until a reference is read or
    /// evaluated, unless `request.evaluate` is set.
    async fn solve(&self, request: SolveRequest) -> Result<FrontendResult, BuildError>;

    /// Resolves an image name to its digest and config.
    async fn resolve_image(&self, query: ImageQuery) -> Result<ImageMeta, BuildError>;

    /// Resolves any source (image, http, git) to what it is right now.
    async fn resolve_source(&self, query: SourceQuery) -> Result<SourceMeta, BuildError>;

    /// Shows a warning in the build's progress.
    async fn warn(&self, warning: Warning) -> Result<(), BuildError>;

    /// The named inputs of the build's request.
    fn inputs(&self) -> BTreeMap<String, Definition>;

    /// Options of the build's request, for frontends that ask.
    fn options(&self) -> BTreeMap<String, String>;

    /// The session that started the build, or an empty string.
    fn session_id(&self) -> String;

    /// Platforms that the daemon can run, native first.
    fn platforms(&self) -> Vec<Platform>;

    /// Runs a frontend that is a program in the file system of `root`, and returns its exit code once all of its
    /// processes are gone. It has no more rights than a sandboxed step. Cancel: drop the future.
    async fn run_process(&self, root: SharedRef, process: FrontendProcess) -> Result<u32, BuildError> {
        drop((root, process));
        Err(BuildError::unimplemented("this build cannot run frontends that are images"))
    }

    /// Prepares mounts that processes can run over.
    async fn new_container(&self, request: ContainerRequest) -> Result<Arc<dyn BridgeContainer>, BuildError> {
        drop(request);
        Err(BuildError::unimplemented("this build runs no containers"))
    }
}

/// A lazy handle on one output of a solved definition.
#[async_trait]
pub trait BridgeRef: Any + Send + Sync + std::fmt::Debug {
    /// The definition that yields this output.
    fn definition(&self) -> Definition;

    /// Computes the output now.
    async fn evaluate(&self) -> Result<(), BuildError>;

    /// Reads a regular file; symlinks stay within the reference. Errors: `NotFound` names the path.
    async fn read_file(&self, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, BuildError>;

    /// Lists a directory; `include` is a pattern over base names (empty: all).
    async fn read_dir(&self, path: &str, include: &str) -> Result<Vec<DirEntry>, BuildError>;

    /// Metadata of one path, not following a symlink at its end.
    async fn stat_file(&self, path: &str) -> Result<DirEntry, BuildError>;
}

/// Part of a file, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct FileRange {
    /// First byte.
    pub offset: u64,
    /// At most that many bytes; 0 means to the end.
    pub length: u64,
}

/// Metadata of a file within a reference.
#[derive(Debug, Clone, Default)]
pub struct DirEntry {
    /// Name relative to the directory that was read (or the path that was asked for).
    pub path: String,
    /// Go's `os.FileMode` bits, as on the wire.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Target of a symlink.
    pub link_name: String,
    /// Device numbers.
    pub dev_major: i64,
    /// Device numbers.
    pub dev_minor: i64,
}

/// A definition or a frontend to run.
#[derive(Debug, Clone, Default)]
pub struct SolveRequest {
    /// What to solve; `None` with an empty frontend is scratch.
    pub definition: Option<Definition>,
    /// Name of a frontend (`dockerfile.v0`), or empty.
    pub frontend: String,
    /// Options for that frontend.
    pub options: BTreeMap<String, String>,
    /// Named inputs for that frontend.
    pub inputs: BTreeMap<String, Definition>,
    /// Caches to look into from now on, as (type, attributes).
    pub cache_imports: Vec<(String, BTreeMap<String, String>)>,
    /// Rules on the sources of the definition, besides those of the build.
    pub policies: Vec<SourcePolicy>,
    /// Compute the result before returning.
    pub evaluate: bool,
}

/// How an image name is resolved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResolveMode {
    /// As configured: prefer what is here when it is up to date.
    #[default]
    Default,
    /// Always ask the registry.
    ForcePull,
    /// Prefer the local image store.
    PreferLocal,
}

/// Asks for an image's digest and config.
#[derive(Debug, Clone)]
pub struct ImageQuery {
    /// The image's name as a user wrote it, normalised or not.
    pub reference: String,
    /// Which platform of an index; `None` is the daemon's own.
    pub platform: Option<Platform>,
    /// Where to look.
    pub mode: ResolveMode,
    /// Name of the progress step, for instance `[internal] load metadata for docker.io/library/busybox:latest`.
    pub log_name: String,
    /// False: only the digest is wanted.
    pub want_config: bool,
    /// For `oci-layout://` images: (session id, store id).
    pub oci_layout: Option<(String, String)>,
    /// Rules on the source, besides those of the build.
    pub policies: Vec<SourcePolicy>,
}

/// What an image name stands for now.
#[derive(Debug, Clone)]
pub struct ImageMeta {
    /// Canonical name, possibly changed by a source policy.
    pub reference: String,
    /// Digest of the manifest or index that the name points to.
    pub digest: Digest,
    /// The image config's JSON for the asked platform; empty if it was not wanted.
    pub config: Vec<u8>,
}

/// Asks what any source is right now.
#[derive(Debug, Clone)]
pub struct SourceQuery {
    /// Identifier and attributes.
    pub source: SourceOp,
    /// Which platform of an index.
    pub platform: Option<Platform>,
    /// Where to look for images.
    pub mode: ResolveMode,
    /// Name of the progress step.
    pub log_name: String,
    /// False: only the digest of an image is wanted.
    pub want_config: bool,
    /// Rules on the source, besides those of the build.
    pub policies: Vec<SourcePolicy>,
}

/// What a repository's ref is right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitMeta {
    /// What the ref names: a commit, or the object of an annotated tag.
    pub object: String,
    /// The commit.
    pub commit: String,
    /// The full ref.
    pub reference: String,
}

/// What a source is right now.
#[derive(Debug, Clone)]
pub struct SourceMeta {
    /// The source, possibly changed by a source policy.
    pub source: SourceOp,
    /// For images.
    pub image: Option<ImageMeta>,
    /// For git.
    pub git: Option<GitMeta>,
    /// For http: (content digest, file name, last modified in unix seconds).
    pub http: Option<(Digest, String, Option<i64>)>,
}

/// A warning for the user.
#[derive(Debug, Clone, Default)]
pub struct Warning {
    /// The vertex it belongs to, if any.
    pub vertex: Option<Digest>,
    /// 1 is most important.
    pub level: i64,
    /// One line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// A page that explains it.
    pub url: String,
    /// Where in the source.
    pub location: Option<SourceLocation>,
}

/// Shared handle, as results hold it.
pub type SharedRef = Arc<dyn BridgeRef>;
