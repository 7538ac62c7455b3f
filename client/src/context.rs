//! Where a build's files come from: a directory, standard input, or a URL; and the contexts that it has besides.

use std::fs::File;
use std::io::{self, Cursor, Read, Write as _};
use std::path::{Path, PathBuf};

use rbuild_frontend::Fault;
use rbuild_session::client::{ContentStores, Uploads};

use crate::cli::BuildArgs;
use crate::errors::CommandError;
use crate::run;

/// How much of standard input is looked at to tell an archive from a Dockerfile.
const HEAD_BYTES: u64 = 1024;
/// A Dockerfile from standard input that is larger is not meant to be one.
const MAX_DOCKERFILE: u64 = 64 << 20;
/// The name of a Dockerfile unless another is given.
const DOCKERFILE: &str = "Dockerfile";

/// The context of a build and its Dockerfile, as the daemon is told of them.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Attributes of the request.
    pub(crate) attrs: Vec<(String, String)>,
    /// Directories by the names under which the daemon asks for them.
    pub(crate) dirs: Vec<(String, PathBuf)>,
    /// Streams of this process.
    pub(crate) uploads: Uploads,
    /// Directories in OCI layout.
    pub(crate) stores: ContentStores,
    /// Identifies the directories over many builds.
    pub(crate) shared_key: String,
    temporary: Vec<TempDir>,
}

/// A directory of this build's own, removed when dropped.
#[derive(Debug)]
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "removing a temporary directory");
        }
    }
}

impl TempDir {
    fn new() -> Result<Self, CommandError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let dir = std::env::temp_dir().join(format!("rbuildctl-{}", rbuild_digest::random_id()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Context {
    /// What the arguments name. Reads standard input if they say so, up to the head of an archive.
    ///
    /// Blocking; a terminal is read until its end like anything else.
    pub(crate) fn find(args: &BuildArgs) -> Result<Self, CommandError> {
        let stdin_file = args.file.as_deref().is_some_and(|file| file.as_os_str() == "-");
        match args.context.as_str() {
            "-" if stdin_file => {
                Err(CommandError::usage("standard input cannot be both the build context and the Dockerfile")
                    .hint("send an archive and name the Dockerfile in it, or name a directory"))
            }
            "-" => Self::stdin(args),
            url if is_remote(url) => Self::remote(args, stdin_file),
            _ => Self::directory(args, stdin_file),
        }
    }

    /// An archive is uploaded; anything else is a Dockerfile with an empty context.
    fn stdin(args: &BuildArgs) -> Result<Self, CommandError> {
        let mut head = Vec::new();
        io::stdin().take(HEAD_BYTES).read_to_end(&mut head)?;
        if head.is_empty() {
            return Err(CommandError::usage("standard input is empty")
                .hint("expected a Dockerfile, or a tar archive of the build context"));
        }
        let mut context = Self::default();
        if rbuild_dockerfile::is_archive(&head) {
            let url = context.uploads.add(Cursor::new(head).chain(io::stdin()));
            context.put("context", &url);
            context.put("filename", &name_in_context(args)?);
            return Ok(context);
        }
        if let Some(file) = &args.file {
            return Err(CommandError::usage(format!(
                "standard input is a Dockerfile, and --file {} names another",
                file.display()
            )));
        }
        context.dockerfile_from(Cursor::new(head).chain(io::stdin()))?;
        let empty = TempDir::new()?;
        context.share("context", empty.0.clone());
        context.temporary.push(empty);
        Ok(context)
    }

    /// The Dockerfile is in the context, unless it comes from standard input or has an absolute path here.
    fn remote(args: &BuildArgs, stdin_file: bool) -> Result<Self, CommandError> {
        let mut context = Self::default();
        context.put("context", &args.context);
        let here = args.file.as_deref().filter(|file| file.is_absolute() && file.is_file());
        match here {
            _ if stdin_file => context.dockerfile_from(io::stdin())?,
            Some(file) => context.dockerfile_at(file)?,
            None => {
                context.put("filename", &name_in_context(args)?);
                return Ok(context);
            }
        }
        context.put("dockerfilekey", "dockerfile");
        Ok(context)
    }

    fn directory(args: &BuildArgs, stdin_file: bool) -> Result<Self, CommandError> {
        let dir = PathBuf::from(&args.context);
        if !dir.is_dir() {
            let what = if dir.exists() { "is not a directory" } else { "does not exist" };
            return Err(CommandError::new(format!("unable to prepare context: {} {what}", args.context))
                .fault(Fault::Context)
                .hint(match args.context.contains("://") {
                    true => "contexts are fetched by http, https, git and ssh",
                    false => "the last argument names the directory of the build context, for instance `.`",
                }));
        }
        let mut context = Self { shared_key: run::shared_key(&dir), ..Self::default() };
        match &args.file {
            _ if stdin_file => context.dockerfile_from(io::stdin())?,
            Some(file) => context.dockerfile_at(file)?,
            None => context.dockerfile_at(&dir.join(DOCKERFILE))?,
        }
        context.share("context", dir);
        Ok(context)
    }

    /// Keeps a Dockerfile that is in no directory.
    fn dockerfile_from(&mut self, input: impl Read) -> Result<(), CommandError> {
        let dir = TempDir::new()?;
        let mut out = File::create(dir.0.join(DOCKERFILE))?;
        if io::copy(&mut input.take(MAX_DOCKERFILE + 1), &mut out)? > MAX_DOCKERFILE {
            let limit = MAX_DOCKERFILE >> 20;
            return Err(CommandError::usage(format!("the Dockerfile is larger than {limit} MiB")));
        }
        out.flush()?;
        self.put("filename", DOCKERFILE);
        self.share("dockerfile", dir.0.clone());
        self.temporary.push(dir);
        Ok(())
    }

    /// Shares the directory of a Dockerfile; whether the file is there is found out by the daemon's question.
    fn dockerfile_at(&mut self, file: &Path) -> Result<(), CommandError> {
        let name = file.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| {
            CommandError::usage(format!("--file {}: expected the path of a file", file.display()))
        })?;
        let dir = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !dir.is_dir() {
            return Err(CommandError::new(format!(
                "failed to read dockerfile: open {}: no such file or directory",
                file.display()
            ))
            .fault(Fault::NoDockerfile)
            .hint("--file is relative to the current directory, not to the context"));
        }
        self.put("filename", name);
        self.share("dockerfile", dir);
        Ok(())
    }

    pub(crate) fn put(&mut self, name: &str, value: &str) {
        self.attrs.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn share(&mut self, name: &str, dir: PathBuf) {
        self.dirs.push((name.to_owned(), dir));
    }
}

/// Whether a context is fetched by the daemon. What could be a file's name as well is one if it is there.
pub(crate) fn is_remote(text: &str) -> bool {
    if text.starts_with("http://") || text.starts_with("https://") {
        return true;
    }
    match rbuild_llb::git::GitUrl::parse(text) {
        Ok(Some(url)) => !url.looks_local || !Path::new(text).exists(),
        // A mistake in what is meant to be a repository is told by the daemon.
        Err(_) => !Path::new(text).exists(),
        Ok(None) => false,
    }
}

/// The path of the Dockerfile in a context that is not here.
fn name_in_context(args: &BuildArgs) -> Result<String, CommandError> {
    let Some(file) = &args.file else { return Ok(DOCKERFILE.to_owned()) };
    let name = file.to_str().map(str::to_owned);
    name.ok_or_else(|| CommandError::usage(format!("--file {}: expected UTF-8", file.display())))
}
