//! The bare repository that objects of one remote are fetched into.

use std::path::{Path, PathBuf};

use rbuild_store::{CacheMount, CacheMountOptions, CachePurpose, Sharing, Store};
use rbuild_sys::{Root, SysError};

use super::auth::{Access, blocking};
use super::remote::Remote;
use super::run::Git;
use crate::{SourceError, SourceRequest};

/// Where commits that are here, complete, are noted.
const HERE: &str = "refs/rbuild";
/// What of a server's answer says that only whole branches can be had, or that the commit is elsewhere.
const ONLY_WHOLE: [&str; 6] = [
    "not our ref",
    "unadvertised object",
    "shallow",
    "no such remote ref",
    "couldn't find remote ref",
    "dumb http",
];

/// A repository, nobody else's while this lives.
#[derive(Debug)]
pub(super) struct Repo {
    path: PathBuf,
    root: Root,
    _mount: CacheMount,
}

impl Repo {
    /// Waits until nobody else has it.
    pub(super) async fn open(store: &Store, remote: &Remote, commit: &str) -> Result<Self, SourceError> {
        // SHA-256 and SHA-1 do not share a repository.
        let is_sha256 = commit.len() == 64;
        let id = format!("{}{}", remote.git_url(), if is_sha256 { " sha256" } else { "" });
        let mount = store
            .cache_mount(CacheMountOptions {
                id,
                purpose: CachePurpose::GitRepository,
                sharing: Sharing::Locked,
                base: None,
                description: format!("shared git repo for {}", super::remote::redacted(remote.git_url())),
            })
            .await?;
        let rbuild_sys::Mount::Bind { source: path, .. } = mount.mount()? else {
            return Err(remote.invalid("its repository is not a plain directory"));
        };
        let root = mount.root()?;
        let root = blocking("git repository", move || {
            prepare(&root, is_sha256).map_err(std::io::Error::from)?;
            Ok(root)
        })
        .await?;
        Ok(Self { path, root, _mount: mount })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Git, run on it.
    pub(super) fn git(&self, git: &Git) -> Git {
        git.clone().env("GIT_DIR", &self.path)
    }

    /// Makes sure that the commit is here with all its files. One that is here is not fetched again.
    pub(super) async fn ensure(
        &self,
        access: &Access,
        request: &SourceRequest,
        remote: &Remote,
        commit: &str,
        reference: &str,
    ) -> Result<(), SourceError> {
        let here = format!("{HERE}/{commit}");
        if self.root.exists(&here).map_err(io_error)? {
            return Ok(());
        }
        let git = self.git(access.git());
        let url = remote.git_url();
        let fetch = ["fetch", "--progress", "--no-tags", "--no-write-fetch-head"];
        let spec = format!("+{commit}:{here}");
        let just = [&fetch[..], &["--depth=1", "--", url, &spec]].concat();
        let error = match git.talk(request, &just).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !needs_more(&error) {
            return Err(error);
        }
        tracing::debug!(%error, "the server does not give single commits");
        if reference.starts_with("refs/") {
            let spec = format!("+{reference}:refs/tmp/one");
            let by_name = [&fetch[..], &["--depth=1", "--", url, &spec]].concat();
            match git.talk(request, &by_name).await {
                Ok(()) if self.note(&git, request, commit, "refs/tmp/one").await? => return Ok(()),
                Ok(()) => {}
                Err(error) if needs_more(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.everything(&git, request, remote, commit, reference).await
    }

    /// All branches and tags with their history: for old servers, and for commits that no name leads to directly.
    async fn everything(
        &self,
        git: &Git,
        request: &SourceRequest,
        remote: &Remote,
        commit: &str,
        reference: &str,
    ) -> Result<(), SourceError> {
        let mut all = vec!["fetch", "--progress", "--no-tags", "--no-write-fetch-head"];
        if self.root.exists("shallow").map_err(io_error)? {
            all.push("--unshallow");
        }
        all.extend([
            "--",
            remote.git_url(),
            "+refs/heads/*:refs/tmp/heads/*",
            "+refs/tags/*:refs/tmp/tags/*",
        ]);
        let named = format!("+{reference}:refs/tmp/one");
        if reference.starts_with("refs/") {
            all.push(&named);
        }
        git.talk(request, &all).await?;
        match self.note(git, request, commit, commit).await? {
            true => Ok(()),
            false => Err(SourceError::NotFound { what: format!("commit {commit} in {}", remote.git_url()) }),
        }
    }

    /// Notes the commit as here if `name` leads to it. A branch that moved meanwhile does not.
    async fn note(
        &self,
        git: &Git,
        request: &SourceRequest,
        commit: &str,
        name: &str,
    ) -> Result<bool, SourceError> {
        let peeled = format!("{name}^{{commit}}");
        let found = match git
            .local(request, &["rev-parse", "--verify", "--quiet", "--end-of-options", &peeled])
            .await
        {
            Ok(found) => found,
            Err(SourceError::Command { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if found.trim() != commit {
            return Ok(false);
        }
        git.local(request, &["update-ref", &format!("{HERE}/{commit}"), commit]).await?;
        Ok(true)
    }
}

fn io_error(error: SysError) -> SourceError {
    SourceError::io("git repository", error.into())
}

fn needs_more(error: &SourceError) -> bool {
    let SourceError::Command { detail, .. } = error else { return false };
    let detail = detail.to_lowercase();
    ONLY_WHOLE.iter().any(|words| detail.contains(words))
}

/// Makes what a repository consists of, and removes what a killed git has left in it.
fn prepare(root: &Root, is_sha256: bool) -> Result<(), SysError> {
    for dir in ["objects/info", "objects/pack", "refs/heads", HERE] {
        root.mkdir_all(dir, 0o700)?;
    }
    let (version, format) = match is_sha256 {
        true => (1, "[extensions]\n\tobjectFormat = sha256\n"),
        false => (0, ""),
    };
    let config = format!("[core]\n\trepositoryformatversion = {version}\n\tbare = true\n{format}");
    for (name, text) in [("config", config.as_str()), ("HEAD", "ref: refs/heads/none\n")] {
        if !root.exists(name)? {
            let mut file = root.create_file(name, 0o600, false)?;
            std::io::Write::write_all(&mut file, text.as_bytes())
                .map_err(|error| SysError::new("write", name, rbuild_sys::RawErrno::from(error)))?;
        }
    }
    for dir in [".", "objects/pack", HERE] {
        let dir = root.open_dir_nofollow(dir)?;
        for entry in dir.read_dir()? {
            let name = entry.name.to_string_lossy();
            if name.ends_with(".lock") || name.starts_with("tmp_") || name.starts_with("index-") {
                dir.remove_all(&entry.name)?;
            }
        }
    }
    if root.exists("refs/tmp")? {
        root.remove_all("refs/tmp")?;
    }
    Ok(())
}
