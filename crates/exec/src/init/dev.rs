//! `/dev` of a step: a small tmpfs with the nodes every program expects.

use std::os::fd::OwnedFd;

use rbuild_sys::{FsMount, MountFlags, MountTree, Result, Root, makedev};
use rustix::pty::OpenptFlags;

use crate::spec::{SecurityMode, TermSize};

const CHAR: u32 = nix::libc::S_IFCHR;
const BLOCK: u32 = nix::libc::S_IFBLK;
/// The group `tty` on practically every distribution.
const TTY_GID: &str = "5";

/// Nodes that every step has.
const NODES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Further nodes of an insecure step.
const INSECURE_NODES: &[(&str, u32, u32)] = &[
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("net/tun", 10, 200),
    ("loop-control", 10, 237),
];
/// Loop devices of an insecure step.
const LOOPS: u32 = 16;
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The tmpfs with nodes and links, and the directories that more is mounted on.
pub(super) fn tree(security: SecurityMode) -> Result<MountTree> {
    let mut fs = FsMount::open("tmpfs")?;
    fs.string("mode", "755")?;
    fs.string("size", "65536k")?;
    let tree = fs.mount(MountFlags { nosuid: true, ..MountFlags::default() })?;
    let root = tree.root()?;
    for (name, major, minor) in NODES {
        root.mknod(name, CHAR | 0o666, makedev(*major, *minor))?;
    }
    if security == SecurityMode::Insecure {
        root.mkdir("net", 0o755)?;
        for (name, major, minor) in INSECURE_NODES {
            root.mknod(name, CHAR | 0o666, makedev(*major, *minor))?;
        }
        for minor in 0..LOOPS {
            root.mknod(format!("loop{minor}"), BLOCK | 0o666, makedev(7, minor))?;
        }
    }
    for (target, name) in LINKS {
        root.symlink(target, name)?;
    }
    for dir in ["pts", "shm", "mqueue"] {
        root.mkdir(dir, 0o755)?;
    }
    Ok(tree)
}

/// `/dev/pts`: terminals of this step only.
pub(super) fn pts() -> Result<MountTree> {
    let mut fs = FsMount::open("devpts")?;
    fs.flag("newinstance")?;
    fs.string("ptmxmode", "0666")?;
    fs.string("mode", "0620")?;
    fs.string("gid", TTY_GID)?;
    fs.mount(MountFlags { nosuid: true, noexec: true, ..MountFlags::default() })
}

/// `/dev/shm`.
pub(super) fn shm() -> Result<MountTree> {
    let mut fs = FsMount::open("tmpfs")?;
    fs.string("mode", "1777")?;
    fs.string("size", "65536k")?;
    fs.mount(MountFlags { nosuid: true, noexec: true, nodev: true, ..MountFlags::default() })
}

/// As [`terminal`]; the step's end also shows as `/dev/console`.
pub(super) fn console(root: &Root, size: TermSize) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = terminal(root, size)?;
    let dev = root.open_dir_nofollow("/dev")?;
    dev.create_file("console", 0o600, true)?;
    MountTree::bind_fd(&theirs, false)?.attach(dev.open_path_nofollow("console")?)?;
    Ok((ours, theirs))
}

/// A new terminal of the step's own `/dev/pts`: the daemon's end, and the step's.
pub(super) fn terminal(root: &Root, size: TermSize) -> std::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    let pts = root.open_dir_nofollow("/dev/pts")?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let ours = rustix::fs::openat(pts.as_fd(), "ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&ours)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    // Here, not by the daemon, so that the program never sees another size.
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size)?;
    Ok((ours, theirs))
}
