//! What is mounted over the root file system, in which order, and from where.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rbuild_sys::{FsMount, Mount, MountFlags, MountTree, Result, Root, SysError};

use super::wire::{Job, JobMount, Source};
use super::{dev, place};
use crate::error::{During, Failure};
use crate::spec::{SecurityMode, clean};

/// No setuid, no devices, no programs: for what only holds data.
const DATA_ONLY: MountFlags = MountFlags { readonly: false, nosuid: true, nodev: true, noexec: true };
/// A place of the daemon's file system that may be covered, in this process's private view, while a mount is taken apart.
const SCRATCH: &str = "/sys";

/// One thing to mount.
enum Item<'a> {
    Proc,
    Dev,
    Pts,
    Shm,
    Mqueue,
    Sys,
    Cgroup,
    File(&'a Path),
    Asked(&'a JobMount),
}

/// Everything to mount, in order: the fixed ones, then the step's own, parents before what lies below. A later mount of
/// the same place takes the earlier one's turn, as upstream has it.
fn plan(job: &Job) -> Vec<(String, Item<'_>)> {
    let mut items = vec![
        ("/proc".into(), Item::Proc),
        ("/dev".into(), Item::Dev),
        ("/dev/pts".into(), Item::Pts),
        ("/dev/shm".into(), Item::Shm),
        ("/dev/mqueue".into(), Item::Mqueue),
        ("/sys".into(), Item::Sys),
        ("/etc/resolv.conf".into(), Item::File(&job.resolv_conf)),
        ("/etc/hosts".into(), Item::File(&job.hosts)),
        ("/sys/fs/cgroup".into(), Item::Cgroup),
    ];
    let mut asked: Vec<(String, Item<'_>)> =
        job.mounts.iter().map(|mount| (clean(&mount.dest), Item::Asked(mount))).collect();
    asked.sort_by_key(|(dest, _)| dest.matches('/').count());
    for (dest, item) in asked {
        match items.iter_mut().find(|(known, _)| *known == dest) {
            Some(earlier) => earlier.1 = item,
            None => items.push((dest, item)),
        }
    }
    items
}

/// Mounts everything the step sees over `root`.
pub(super) fn all(root: &Root, job: &Job, data: &[u8]) -> std::result::Result<(), Failure> {
    for (dest, item) in plan(job) {
        mount(root, job, data, &dest, &item).during(&format!("mount `{dest}`"))?;
    }
    Ok(())
}

fn mount(root: &Root, job: &Job, data: &[u8], dest: &str, item: &Item<'_>) -> Result<()> {
    let insecure = job.security == SecurityMode::Insecure;
    match item {
        Item::Proc => simple("proc", DATA_ONLY)?.attach(place::plain_dir(root, dest)?),
        Item::Dev => dev::tree(job.security)?.attach(place::plain_dir(root, dest)?),
        Item::Pts => dev::pts()?.attach(place::mount_point(root, Path::new(dest), true)?),
        Item::Shm => dev::shm()?.attach(place::mount_point(root, Path::new(dest), true)?),
        Item::Mqueue => simple("mqueue", DATA_ONLY)?.attach(place::mount_point(root, Path::new(dest), true)?),
        Item::Sys => {
            let flags = MountFlags { readonly: !insecure, ..DATA_ONLY };
            simple("sysfs", flags)?.attach(place::plain_dir(root, dest)?)
        }
        Item::Cgroup => cgroups(root, dest, &job.cgroups, insecure),
        Item::File(source) => {
            let tree = MountTree::bind(source, true)?;
            tree.set(MountFlags { readonly: true, ..DATA_ONLY })?;
            tree.attach(place::mount_point(root, Path::new(dest), false)?)
        }
        Item::Asked(mount) => {
            let (tree, is_dir) = asked(mount, data, Path::new(SCRATCH))?;
            tree.attach(place::mount_point(root, Path::new(dest), is_dir)?)
        }
    }
}

fn simple(kind: &'static str, flags: MountFlags) -> Result<MountTree> {
    FsMount::open(kind)?.mount(flags)
}

/// The step's own cgroup. Of version 1 there is a directory for each controller, of which the step sees its own part;
/// where it has none, the directory stays empty, for the whole hierarchies show every other step's.
fn cgroups(root: &Root, dest: &str, joined: &[PathBuf], insecure: bool) -> Result<()> {
    let target = match root.open_path(dest) {
        Ok(target) => target,
        Err(err) if err.is_not_found() => return Ok(()),
        Err(err) => return Err(err),
    };
    let flags = MountFlags { readonly: !insecure, ..DATA_ONLY };
    if crate::cgroup::is_unified() {
        return simple("cgroup2", flags)?.attach(target);
    }
    if joined.is_empty() {
        return Ok(());
    }
    let mut places = FsMount::open("tmpfs")?;
    places.string("mode", "755")?;
    let places = places.mount(DATA_ONLY)?;
    places.attach(target)?;
    let inside = places.root()?;
    for (controller, dir) in joined.iter().filter_map(|procs| crate::cgroup::own_part(procs)) {
        inside.mkdir(controller, 0o755)?;
        let part = MountTree::bind(dir, !insecure)?;
        part.set(flags)?;
        part.attach(inside.open_path(controller)?)?;
    }
    places.set(MountFlags { readonly: true, ..DATA_ONLY })
}

/// The mount that the step asked for, and whether it is a directory. `scratch` may be covered meanwhile.
pub(crate) fn asked(mount: &JobMount, data: &[u8], scratch: &Path) -> Result<(MountTree, bool)> {
    let tree = match &mount.source {
        Source::Data { offset, len, mode, uid, gid } => {
            let bytes = data.get(*offset..offset + len).unwrap_or_default();
            let tree = secret(bytes, (*mode, *uid, *gid), scratch)?;
            let flags = MountFlags { readonly: mount.readonly, ..DATA_ONLY };
            tree.set(flags)?;
            return Ok((tree, false));
        }
        Source::Mount(spec) if is_top(&mount.subpath) => MountTree::new(spec)?,
        Source::Mount(Mount::Bind { source, readonly }) => {
            let fd = Root::open(source)?.open_path(&mount.subpath)?;
            MountTree::bind_fd(fd, *readonly)?
        }
        Source::Mount(spec) => {
            let tree = MountTree::new(spec)?;
            let fd = tree.root()?.open_path(&mount.subpath)?;
            part(tree, fd, scratch)?
        }
    };
    if mount.readonly {
        tree.restrict(MountFlags { readonly: true, ..MountFlags::default() })?;
    }
    let stat = rustix::fs::fstat(&tree).map_err(|errno| SysError::new("fstat", &mount.dest, errno))?;
    Ok((tree, rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()))
}

fn is_top(subpath: &str) -> bool {
    clean(subpath) == "/"
}

/// A mount of `fd`, which lies in `tree`. Before Linux 6.15 only an attached mount may be cloned.
fn part(tree: MountTree, fd: OwnedFd, scratch: &Path) -> Result<MountTree> {
    match MountTree::bind_fd(&fd, false) {
        Err(err) if err.errno() == nix::libc::EINVAL => {
            tree.attach(Root::open(scratch)?.as_fd())?;
            MountTree::bind_fd(&fd, false)
        }
        done => done,
    }
}

/// A file in memory of its own.
fn secret(bytes: &[u8], (mode, uid, gid): (u32, u32, u32), scratch: &Path) -> Result<MountTree> {
    use std::io::Write;
    let mut fs = FsMount::open("tmpfs")?;
    fs.string("mode", "700")?;
    // One page more than the content: the directory counts too.
    fs.string("size", (bytes.len() + 64 * 1024).to_string())?;
    let tree = fs.mount(DATA_ONLY)?;
    let root = tree.root()?;
    let name = PathBuf::from("data");
    root.create_file(&name, mode, true)?
        .write_all(bytes)
        .map_err(|err| SysError::new("write", &name, err))?;
    root.chown(&name, uid, gid)?;
    root.chmod(&name, mode)?;
    let fd = root.open_path_nofollow(&name)?;
    part(tree, fd, scratch)
}
