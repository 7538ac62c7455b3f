//! An exec op's mounts as the sandbox takes them, and what becomes of them afterwards.
//!
//! | mount | the process sees | afterwards |
//! |---|---|---|
//! | bind, written and kept | a new tree over the input | committed: an output |
//! | bind, written, not kept | a new tree over the input | thrown away, unless the process failed and is looked at |
//! | bind, read-only | the input | the same ref, if it is an output |
//! | cache | a named directory of the store | stays there |
//! | tmpfs | memory | gone |
//! | secret | a file in memory | gone |
//! | ssh | a socket to the client's agent | closed |
//!
//! A selector (`subpath`) is resolved by the sandbox, by descriptor, below the root of what is mounted (P1, P3). Trees
//! are not mounted in the daemon: the overlay is made inside the sandbox. Locked cache mounts are taken in the order of
//! their names, so that two steps that share several cannot wait for each other.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rbuild_digest::random_id;
use rbuild_exec::{ContainerMount, MountSource};
use rbuild_llb::{CacheSharing, ExecOp, Mount, MountKind, SecretMount, SshMount};
use rbuild_session::{Session, SessionError, SessionGroup, SshSocket};
use rbuild_store::{
    CacheMount, CacheMountOptions, CachePurpose, MutableRef, NewMutable, Ref, RefId, Sharing,
};

use crate::error::{Left, OpError};
use crate::op::LlbOp;
use crate::scope::Scope;
use crate::worker::Worker;

/// Mode of a tmpfs mount's root, as the kernel has it by default.
const TMPFS_MODE: u32 = 0o1777;
/// How long a session that a build names is waited for.
const SESSION_WAIT: Duration = Duration::from_secs(5);

/// What becomes an output.
enum Output {
    Same(Ref),
    Written(MutableRef),
}

/// An output, and where among the mounts it is.
struct Made {
    mount: usize,
    output: u32,
    what: Output,
}

/// Everything that a process sees, held until it has ended.
pub(crate) struct Prepared {
    pub(crate) rootfs: rbuild_sys::Mount,
    pub(crate) mounts: Vec<ContainerMount>,
    /// What lies on disk behind each mount of the exec.
    pub(crate) sources: Vec<Option<rbuild_sys::Mount>>,
    outputs: Vec<Made>,
    /// Only held: thrown away or released when dropped. With the position of the mount.
    scratch: Vec<(usize, MutableRef)>,
    caches: Vec<((String, Option<u32>), CacheMount)>,
    sockets: Vec<SshSocket>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("rootfs", &self.rootfs)
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

/// Prepares the mounts of an exec.
pub(crate) async fn prepare(
    op: &LlbOp,
    exec: &ExecOp,
    inputs: &[Ref],
    scopes: &[Scope],
    sessions: &SessionGroup,
) -> Result<Prepared, OpError> {
    let root = exec.root_mount().ok_or_else(|| OpError::invalid("the exec op has no mount at `/`"))?;
    if root.kind != MountKind::Bind || !root.selector.is_empty() {
        return Err(OpError::invalid(
            "the root of a process is a whole file system, not a part or another kind of mount",
        ));
    }
    let mut prepared = Prepared {
        rootfs: rbuild_sys::Mount::Tmpfs { size: None, mode: TMPFS_MODE },
        mounts: Vec::with_capacity(exec.mounts.len()),
        sources: vec![None; exec.mounts.len()],
        outputs: Vec::new(),
        scratch: Vec::new(),
        caches: Vec::new(),
        sockets: Vec::new(),
    };
    let position = exec.mounts.iter().position(|known| std::ptr::eq(known, root)).unwrap_or_default();
    prepared.rootfs = prepared.bind(op, root, position, inputs).await?;
    prepared.sources[position] = Some(prepared.rootfs.clone());
    prepared.take_caches(op, exec, inputs, scopes).await?;
    for (index, mount) in exec.mounts.iter().enumerate().filter(|(_, mount)| !std::ptr::eq(*mount, root)) {
        let source = match &mount.kind {
            MountKind::Bind => Some(MountSource::Mount(prepared.bind(op, mount, index, inputs).await?)),
            MountKind::Cache { id, .. } => Some(MountSource::Mount(prepared.cache(mount, id)?)),
            MountKind::Tmpfs { size_bytes } => Some(tmpfs(*size_bytes)),
            MountKind::Secret(secret) => secret_file(&op.worker, sessions, secret).await?,
            MountKind::Ssh(ssh) => prepared.agent(&op.worker, sessions, ssh).await?,
        };
        if let (Some(MountSource::Mount(shown)), MountKind::Bind | MountKind::Cache { .. }) =
            (&source, &mount.kind)
        {
            prepared.sources[index] = Some(shown.clone());
        }
        if let Some(source) = source {
            let (dest, subpath, readonly) = (mount.dest.clone(), mount.selector.clone(), mount.readonly);
            prepared.mounts.push(ContainerMount { dest, source, subpath, readonly });
        }
    }
    Ok(prepared)
}

fn tmpfs(size_bytes: i64) -> MountSource {
    let size = u64::try_from(size_bytes).ok().filter(|size| *size > 0);
    MountSource::Mount(rbuild_sys::Mount::Tmpfs { size, mode: TMPFS_MODE })
}

fn input<'a>(mount: &Mount, inputs: &'a [Ref]) -> Option<&'a Ref> {
    mount.input.and_then(|input| inputs.get(input as usize))
}

impl Prepared {
    async fn bind(
        &mut self,
        op: &LlbOp,
        mount: &Mount,
        index: usize,
        inputs: &[Ref],
    ) -> Result<rbuild_sys::Mount, OpError> {
        let store = &op.worker.options.store;
        let base = input(mount, inputs);
        if mount.readonly {
            let base = match base {
                Some(base) => base.clone(),
                None => store.scratch().await?,
            };
            let shown = if mount.dest == "/" {
                // The sandbox makes in it what has to be there, and refuses writes then.
                let tree = store.new_mutable(Some(&base), NewMutable::regular(&op.name)).await?;
                let shown = tree.mount()?;
                self.scratch.push((index, tree));
                shown
            } else {
                base.mount().await?.into_readonly()
            };
            if let Some(output) = mount.output {
                self.outputs.push(Made { mount: index, output, what: Output::Same(base) });
            }
            return Ok(shown);
        }
        let tree = store.new_mutable(base, NewMutable::regular(&op.name)).await?;
        let shown = tree.mount()?;
        match mount.output {
            Some(output) => self.outputs.push(Made { mount: index, output, what: Output::Written(tree) }),
            None => self.scratch.push((index, tree)),
        }
        Ok(shown)
    }

    /// Takes all cache mounts, each once, in the order of their names.
    async fn take_caches(
        &mut self,
        op: &LlbOp,
        exec: &ExecOp,
        inputs: &[Ref],
        scopes: &[Scope],
    ) -> Result<(), OpError> {
        let mut wanted = Vec::new();
        for mount in &exec.mounts {
            if let MountKind::Cache { id, sharing } = &mount.kind {
                let key = (id.clone(), mount.input);
                if !wanted.iter().any(|(known, _, _)| *known == key) {
                    wanted.push((key, *sharing, input(mount, inputs).cloned()));
                }
            }
        }
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        // Before any is taken: a step that waits for a download holds nothing.
        for source in scopes.iter().filter_map(|scope| scope.mount_caches.as_ref()) {
            for ((id, _), _, base) in &wanted {
                source.prepare(id, base.as_ref()).await;
            }
        }
        for (key, sharing, base) in wanted {
            let options = CacheMountOptions {
                purpose: CachePurpose::Steps,
                id: key.0.clone(),
                sharing: match sharing {
                    CacheSharing::Shared => Sharing::Shared,
                    CacheSharing::Private => Sharing::Private,
                    CacheSharing::Locked => Sharing::Locked,
                },
                base,
                description: format!("cached mount {} from exec {}", key.0, op.name),
            };
            let cache = op.worker.options.store.cache_mount(options).await?;
            self.caches.push((key, cache));
        }
        Ok(())
    }

    fn cache(&self, mount: &Mount, id: &str) -> Result<rbuild_sys::Mount, OpError> {
        let taken = self.caches.iter().find(|((name, input), _)| name == id && *input == mount.input);
        let (_, cache) =
            taken.ok_or_else(|| OpError::Internal { detail: "a cache mount was not taken".into() })?;
        let shown = cache.mount()?;
        Ok(if mount.readonly { shown.into_readonly() } else { shown })
    }

    async fn agent(
        &mut self,
        worker: &Worker,
        sessions: &SessionGroup,
        ssh: &SshMount,
    ) -> Result<Option<MountSource>, OpError> {
        let id = if ssh.id.is_empty() { "default" } else { &ssh.id };
        for session in open_sessions(worker, sessions).await {
            match session.ssh_check(id).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() || error.is_unsupported() || error.is_closed() => continue,
                Err(error) if ssh.optional => {
                    tracing::debug!(id, %error, "ssh agent left out");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let path = worker.options.run_dir.join(format!("{}.sock", random_id()));
            let socket = SshSocket::bind(&session, id, &path, ssh.uid, ssh.gid, ssh.mode)?;
            self.sockets.push(socket);
            let source = MountSource::Mount(rbuild_sys::Mount::Bind { source: path, readonly: false });
            return Ok(Some(source));
        }
        if ssh.optional { Ok(None) } else { Err(OpError::NoAgent { id: id.to_owned() }) }
    }

    /// Makes refs of what was written, and releases the rest. One ref per output of the op.
    pub(crate) async fn commit(self, op: &LlbOp, count: u32) -> Result<Vec<Ref>, OpError> {
        let Self { outputs, scratch, caches, sockets, .. } = self;
        drop((scratch, caches, sockets));
        let mut refs: Vec<Option<Ref>> = vec![None; count as usize];
        for Made { output, what, .. } in outputs {
            let made = match what {
                Output::Same(same) => same,
                Output::Written(tree) => tree.commit().await?,
            };
            if let Some(slot) = refs.get_mut(output as usize) {
                *slot = Some(made);
            }
        }
        let mut complete = Vec::with_capacity(refs.len());
        for made in refs {
            complete.push(match made {
                Some(made) => made,
                // An output that no bind mount is behind (a cache mount, a gap in the numbers).
                None => op.worker.options.store.scratch().await?,
            });
        }
        Ok(complete)
    }

    /// Makes refs of what a process that failed has written. What cannot be kept is not there to be looked at.
    /// `made`: told of these refs.
    pub(crate) async fn leave(self, exec: &ExecOp, inputs: &[Ref], made: &Mutex<Vec<RefId>>) -> Arc<Left> {
        let Self { outputs, scratch, caches, sockets, .. } = self;
        drop((caches, sockets));
        let inputs: Vec<Option<Ref>> =
            exec.mounts.iter().map(|mount| input(mount, inputs).cloned()).collect();
        let mut mounts = inputs.clone();
        let written = outputs.into_iter().map(|made| (made.mount, made.what));
        let thrown = scratch.into_iter().map(|(index, tree)| (index, Output::Written(tree)));
        for (index, what) in written.chain(thrown) {
            let left = match what {
                Output::Same(same) => Some(same),
                Output::Written(tree) => match tree.commit().await {
                    Ok(left) => {
                        made.lock().push(left.id());
                        Some(left)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "what a failed step wrote is not kept");
                        None
                    }
                },
            };
            if let Some(slot) = mounts.get_mut(index) {
                *slot = left;
            }
        }
        Arc::new(Left { inputs, mounts })
    }
}

/// The sessions of a group that are there, waiting a little for the first.
async fn open_sessions(worker: &Worker, sessions: &SessionGroup) -> Vec<Session> {
    let manager = &worker.options.sessions;
    let mut open = Vec::new();
    for id in sessions.ids() {
        let wait = open.is_empty().then_some(SESSION_WAIT);
        if let Ok(session) = manager.get(&id, wait).await {
            open.push(session);
        }
    }
    open
}

/// A secret from the first client that has it.
///
/// Errors: [`OpError::NoSecret`] if none has, unless it is optional.
pub(crate) async fn secret(
    worker: &Worker,
    sessions: &SessionGroup,
    id: &str,
    optional: bool,
) -> Result<Option<Vec<u8>>, OpError> {
    for session in open_sessions(worker, sessions).await {
        match session.get_secret(id).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if optional { Ok(None) } else { Err(OpError::NoSecret { id: id.to_owned() }) }
}

fn is_missing(error: &SessionError) -> bool {
    error.is_not_found() || error.is_unsupported() || error.is_closed()
}

async fn secret_file(
    worker: &Worker,
    sessions: &SessionGroup,
    mount: &SecretMount,
) -> Result<Option<MountSource>, OpError> {
    let found = secret(worker, sessions, &mount.id, mount.optional).await?;
    Ok(found.map(|bytes| MountSource::Data {
        bytes,
        mode: mount.mode & 0o777,
        uid: mount.uid,
        gid: mount.gid,
    }))
}
