//! The files of a commit as a ref.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rbuild_session::SessionManager;
use rbuild_store::{NewMutable, RecordType, Ref, Store};
use rbuild_sys::{FileKind, Root, SysError};

use super::auth::{Access, blocking};
use super::question::{Question, is_commit};
use super::remote::{Remote, redacted};
use super::repo::Repo;
use super::run::{Git, MAX_ANSWER, too_large};
use crate::{GitPin, SourceError, SourceRequest};

/// Submodules within submodules.
const MAX_DEPTH: usize = 16;
/// Submodules in one repository.
const MAX_SUBMODULES: usize = 4096;

/// What the kernel says of a symlink that may not be followed; the same number on all machines.
const ELOOP: i32 = 40;

/// What does not exist in the repository is the user's mistake, not the daemon's.
fn in_subdir(error: SourceError, remote: &Remote) -> SourceError {
    match &error {
        SourceError::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput => {
            remote.invalid(source.to_string())
        }
        _ => error,
    }
}

fn io_error(error: SysError) -> SourceError {
    SourceError::io("git checkout", error.into())
}

/// A commit of a repository.
struct Wanted {
    remote: Remote,
    commit: String,
    /// The full name that led to it, if one did.
    reference: String,
}

/// A submodule.
struct Submodule {
    path: String,
    wanted: Wanted,
}

/// A checkout as `question` wants it, of one commit and its submodules.
pub(super) struct Work<'a> {
    pub(super) store: &'a Store,
    pub(super) sessions: &'a Arc<SessionManager>,
    pub(super) request: &'a SourceRequest,
    pub(super) question: &'a Question,
    /// What all files may have together.
    pub(super) max_bytes: u64,
    /// What those have that are known of.
    pub(super) bytes: AtomicU64,
}

impl Work<'_> {
    /// Checks out what `pin` names.
    pub(super) async fn checkout(&self, pin: &GitPin) -> Result<Ref, SourceError> {
        let question = self.question;
        let shown = redacted(&self.request.op.identifier);
        let options = NewMutable {
            description: format!("git snapshot for {shown}"),
            record_type: RecordType::SourceGitCheckout,
        };
        let mutable = self.store.new_mutable(None, options).await?;
        let rbuild_sys::Mount::Bind { source: dir, .. } = mutable.mount()? else {
            return Err(question.remote.invalid("its checkout is not a plain directory"));
        };
        let tree = mutable.tree().await?;
        let root = tree.root().try_clone().map_err(io_error)?;
        // A part of the files is checked out aside, where its name meets no other.
        let aside = (!question.subdir.is_empty()).then(|| format!(".rbuild-{}", rbuild_digest::random_id()));
        let place = match &aside {
            None => dir.clone(),
            Some(aside) => {
                root.mkdir(aside, 0o755).map_err(io_error)?;
                dir.join(aside)
            }
        };
        let source = Wanted {
            remote: question.remote.clone(),
            commit: pin.commit.clone(),
            reference: pin.reference.clone(),
        };
        let time = self.place(source, place, 0).await?;
        let subdir = question.subdir.clone();
        let mtime_ns = time.filter(|_| question.commit_mtime);
        blocking("git checkout", move || {
            if let Some(aside) = aside {
                lift(&root, &aside, &subdir)?;
            }
            if let Some(time) = mtime_ns {
                set_times(&root, time).map_err(std::io::Error::from)?;
            }
            Ok(())
        })
        .await
        .map_err(|error| in_subdir(error, &question.remote))?;
        drop(tree);
        Ok(mutable.commit().await?)
    }

    /// The files of a commit may not have more bytes than there are left. A few trees that name each other can stand
    /// for more files than any disk has; their list ends the question.
    async fn check_size(&self, git: &Git, wanted: &Wanted) -> Result<(), SourceError> {
        let args = ["ls-tree", "-r", "--format=%(objectsize)", wanted.commit.as_str()];
        let sizes = match git.local(self.request, &args).await {
            Ok(sizes) => sizes,
            Err(SourceError::LongAnswer { .. }) => {
                return Err(wanted.remote.invalid(format!(
                    "commit {} has more files than the daemon checks out ({} bytes of a list of their sizes)",
                    wanted.commit, MAX_ANSWER
                )));
            }
            Err(error) => return Err(error),
        };
        // Submodules have no size here: theirs are asked for when they are fetched.
        let sum = sizes.lines().filter_map(|size| size.trim().parse::<u64>().ok());
        let sum = sum.fold(0, u64::saturating_add);
        let before = self.bytes.fetch_add(sum, Ordering::Relaxed);
        if before.saturating_add(sum) > self.max_bytes {
            let text =
                format!("commit {} is too large: checked out {}", wanted.commit, too_large(self.max_bytes));
            return Err(wanted.remote.invalid(text));
        }
        Ok(())
    }

    /// Fills `dir`, one of ours. Gives the commit's time in nanoseconds, if it is wanted.
    async fn place(&self, wanted: Wanted, dir: PathBuf, depth: usize) -> Result<Option<i64>, SourceError> {
        if depth > MAX_DEPTH {
            return Err(wanted.remote.invalid(format!("submodules are nested more than {MAX_DEPTH} deep")));
        }
        let (remote, commit) = (&wanted.remote, wanted.commit.as_str());
        let (store, sessions) = (self.store, self.sessions);
        let access =
            Access::open(store, sessions, self.request, self.question, remote, self.max_bytes).await?;
        let repo = Repo::open(self.store, remote, commit).await?;
        repo.ensure(&access, self.request, remote, commit, &wanted.reference).await?;
        let git = repo.git(access.git());
        self.check_size(&git, &wanted).await?;
        // `.git` belongs to the whole repository: parts of it have none.
        if self.question.keep_git_dir && self.question.subdir.is_empty() {
            self.clone_into(&access, &repo, &wanted, &dir).await?;
        } else {
            let index = repo.path().join(format!("index-{}", rbuild_digest::random_id()));
            let tree = git.clone().env("GIT_WORK_TREE", &dir).env("GIT_INDEX_FILE", &index).at(&dir);
            tree.local(self.request, &["read-tree", "--reset", "-u", commit]).await?;
        }
        let time = match self.question.commit_mtime {
            false => None,
            true => {
                let args = ["show", "--no-patch", "--format=%ct", commit];
                let seconds = git.local(self.request, &args).await?.trim().parse::<i64>().ok();
                seconds.and_then(|seconds| seconds.checked_mul(1_000_000_000))
            }
        };
        let submodules = match self.question.skip_submodules {
            true => Vec::new(),
            false => self.submodules(&git, &wanted, &dir).await?,
        };
        // Others, also this repository as its own submodule, may use it from here on.
        drop(repo);
        for submodule in submodules {
            let inner = directory_within(&dir, &submodule.path, &wanted.remote).await?;
            let placed = Box::pin(self.place(submodule.wanted, inner, depth + 1)).await;
            placed.map_err(|error| SourceError::Command {
                what: format!("submodule `{}`", submodule.path.escape_default()),
                detail: error.to_string(),
            })?;
        }
        Ok(time)
    }

    /// A repository of its own with just this commit.
    async fn clone_into(
        &self,
        access: &Access,
        repo: &Repo,
        wanted: &Wanted,
        dir: &Path,
    ) -> Result<(), SourceError> {
        let format =
            if wanted.commit.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        let git = access.git().clone().at(dir);
        git.local(self.request, &["init", "-q", "--template=", format, "."]).await?;
        let git = git.env("GIT_DIR", dir.join(".git")).env("GIT_WORK_TREE", dir);
        git.local(self.request, &["remote", "add", "origin", wanted.remote.git_url()]).await?;
        // From our own repository, of which every commit may be asked for.
        let near =
            git.clone().env("GIT_ALLOW_PROTOCOL", "file").config("uploadpack.allowAnySHA1InWant", "true");
        let from = format!("file://{}", repo.path().display());
        let mut fetch = vec![
            "fetch",
            "-q",
            "--depth=1",
            "--no-tags",
            "--no-write-fetch-head",
            "--update-shallow",
            "--",
            &from,
        ];
        let name =
            match (wanted.reference.strip_prefix("refs/heads/"), wanted.reference.strip_prefix("refs/tags/"))
            {
                (Some(branch), _) => Some(format!("refs/remotes/origin/{branch}")),
                (_, Some(_)) => Some(wanted.reference.clone()),
                _ => None,
            };
        let spec = match &name {
            Some(name) => format!("+{}:{name}", wanted.commit),
            None => wanted.commit.clone(),
        };
        fetch.push(&spec);
        near.local(self.request, &fetch).await?;
        git.local(self.request, &["checkout", "-q", "--detach", &wanted.commit, "--"]).await.map(drop)
    }

    /// The submodules of a commit that is checked out in `dir`.
    async fn submodules(
        &self,
        git: &Git,
        wanted: &Wanted,
        dir: &Path,
    ) -> Result<Vec<Submodule>, SourceError> {
        let dir = dir.to_owned();
        let listed = blocking("git checkout", move || {
            let root = Root::open(&dir).map_err(std::io::Error::from)?;
            match root.stat(".gitmodules") {
                Ok(stat) => Ok(stat.kind() == FileKind::File),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error.into()),
            }
        });
        if !listed.await? {
            return Ok(Vec::new());
        }
        let blob = format!("--blob={}:.gitmodules", wanted.commit);
        let regexp = r"^submodule\..*\.(path|url|update)$";
        let config = match git.local(self.request, &["config", &blob, "-z", "--get-regexp", regexp]).await {
            Ok(config) => config,
            // It names none.
            Err(SourceError::Command { detail, .. }) if detail.ends_with("exit status: 1") => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let modules = parse_modules(&config);
        if modules.len() > MAX_SUBMODULES {
            return Err(wanted.remote.invalid(format!("more than {MAX_SUBMODULES} submodules")));
        }
        let mut found = Vec::new();
        for module in modules {
            if module.skip {
                continue;
            }
            check_path(&module.path).map_err(|reason| {
                wanted.remote.invalid(format!("submodule `{}` {reason}", module.path.escape_default()))
            })?;
            let line = git
                .clone()
                .env("GIT_LITERAL_PATHSPECS", "1")
                .local(self.request, &["ls-tree", "-z", &wanted.commit, "--", &module.path])
                .await?;
            let Some(commit) = gitlink(&line, &module.path) else { continue };
            let remote = wanted.remote.join(&module.url)?;
            let inner = Wanted { remote, commit, reference: String::new() };
            found.push(Submodule { path: module.path, wanted: inner });
        }
        Ok(found)
    }
}

/// What `.gitmodules` says of one submodule.
#[derive(Debug, Default, PartialEq, Eq)]
struct Module {
    path: String,
    url: String,
    /// It asks not to be fetched. Its other wishes for updates, commands among them, are not for others to grant.
    skip: bool,
}

/// Reads `name NEWLINE value NUL` records.
fn parse_modules(config: &str) -> Vec<Module> {
    let mut modules: Vec<(String, Module)> = Vec::new();
    for record in config.split('\0') {
        let Some((name, value)) = record.split_once('\n') else { continue };
        let Some((name, field)) = name.strip_prefix("submodule.").and_then(|name| name.rsplit_once('.'))
        else {
            continue;
        };
        let at = modules.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            modules.push((name.to_owned(), Module::default()));
            modules.len() - 1
        });
        let module = &mut modules[at].1;
        match field {
            "path" => value.clone_into(&mut module.path),
            "url" => value.clone_into(&mut module.url),
            "update" => module.skip = value == "none",
            _ => {}
        }
    }
    let complete = |module: &Module| !module.path.is_empty() && !module.url.is_empty();
    modules.into_iter().map(|(_, module)| module).filter(complete).collect()
}

/// The commit of a submodule in a `ls-tree` record.
fn gitlink(output: &str, path: &str) -> Option<String> {
    output.split('\0').find_map(|record| {
        let (entry, name) = record.split_once('\t')?;
        let commit = entry.strip_prefix("160000 commit ")?;
        (name == path && is_commit(commit)).then(|| commit.to_owned())
    })
}

/// A place that no checkout may fill is no place for a submodule.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.starts_with('-') || path.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("has a path that git would not take");
    }
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) if name.eq_ignore_ascii_case(".git") => return Err("lies in `.git`"),
            Component::Normal(_) => {}
            _ => return Err("leaves the repository"),
        }
    }
    Ok(())
}

/// The directory of a submodule, every part of whose path is a directory.
async fn directory_within(dir: &Path, path: &str, remote: &Remote) -> Result<PathBuf, SourceError> {
    let (base, path, full) = (dir.to_owned(), path.to_owned(), dir.join(path));
    blocking("git checkout", move || {
        let root = Root::open(&base).map_err(std::io::Error::from)?;
        walk(&root, &path)?;
        Ok(full)
    })
    .await
    .map_err(|error| in_subdir(error, remote))
}

/// Goes down `path`, where every part has to be a directory: a symlink is none.
fn walk(root: &Root, path: &str) -> std::io::Result<Root> {
    let mut here = root.try_clone()?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let refuse = |text: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, text);
        here = here.open_dir_nofollow(part).map_err(|error| match error.is_not_found() {
            true => refuse(format!("invalid subdir {path}: \"{part}\": no such file or directory")),
            false if error.is_not_dir() || error.errno() == ELOOP => refuse(format!(
                "invalid subdir {path}: git subpath \"{path}\" contains non-directory \"{part}\""
            )),
            false => error.into(),
        })?;
    }
    Ok(here)
}

/// Moves what is in `subdir` of `aside` up to the root, and removes the rest.
fn lift(root: &Root, aside: &str, subdir: &str) -> std::io::Result<()> {
    let all = root.open_dir_nofollow(aside)?;
    let part = walk(&all, subdir)?;
    let mut names = Vec::new();
    part.for_each_entry(|entry| {
        names.push(entry.name);
        Ok(())
    })?;
    for name in names {
        part.rename(&name, root, &name)?;
    }
    root.remove_all(aside)?;
    Ok(())
}

/// Sets the times of everything, directories after what is in them.
fn set_times(root: &Root, time_ns: i64) -> Result<(), SysError> {
    // One open directory per level; the levels of a checkout are bounded by the length of a path.
    let mut stack = vec![(root.try_clone()?, root.read_dir()?)];
    loop {
        let is_top = stack.len() == 1;
        let Some((dir, entries)) = stack.last_mut() else { return Ok(()) };
        let Some(entry) = entries.pop() else {
            dir.utimes(".", time_ns)?;
            stack.pop();
            continue;
        };
        if entry.kind == FileKind::Dir {
            if is_top && entry.name == OsStr::new(".git") {
                continue;
            }
            let inner = dir.open_dir_nofollow(&entry.name)?;
            let inner_entries = inner.read_dir()?;
            stack.push((inner, inner_entries));
        } else {
            dir.utimes(&entry.name, time_ns)?;
        }
    }
}
