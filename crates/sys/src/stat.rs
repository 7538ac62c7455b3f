//! [`Stat`]: what is known about an inode, and [`FileKind`].

use serde::{Deserialize, Serialize};

/// The type bits of a mode.
const S_IFMT: u32 = libc::S_IFMT;
const NANOS: i64 = 1_000_000_000;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device (an overlay whiteout if its device number is 0/0).
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// The file system did not say.
    Unknown,
}

impl FileKind {
    /// From the type bits of `mode`.
    pub fn from_mode(mode: u32) -> FileKind {
        match mode & S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Dir,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            _ => FileKind::Unknown,
        }
    }

    pub(crate) fn from_rustix(kind: rustix::fs::FileType) -> FileKind {
        FileKind::from_mode(kind.as_raw_mode())
    }
}

/// What `lstat` says, with times in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// `st_mode`, type bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; for a symlink the length of its target.
    pub size: u64,
    /// Last change of the content.
    pub mtime_ns: i64,
    /// Last change of the inode.
    pub ctime_ns: i64,
    /// Inode number.
    pub ino: u64,
    /// Device that holds the inode.
    pub dev: u64,
    /// Number of names.
    pub nlink: u64,
    /// Device number, if this is a device node.
    pub rdev: u64,
    /// Blocks of 512 bytes really used.
    pub blocks: u64,
}

impl Stat {
    /// What the inode is.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode)
    }

    /// A directory?
    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Dir
    }

    /// A regular file?
    pub fn is_file(&self) -> bool {
        self.kind() == FileKind::File
    }

    /// A symbolic link?
    pub fn is_symlink(&self) -> bool {
        self.kind() == FileKind::Symlink
    }

    /// Permission bits with setuid, setgid and sticky, without the type.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Major and minor number of a device node.
    pub fn device_numbers(&self) -> (u32, u32) {
        (libc::major(self.rdev), libc::minor(self.rdev))
    }

    /// An overlay whiteout: character device 0/0.
    pub fn is_overlay_whiteout(&self) -> bool {
        self.kind() == FileKind::CharDevice && self.rdev == 0
    }
}

// The fields' widths differ between architectures, so some casts do nothing on some.
#[allow(clippy::unnecessary_cast, reason = "field widths differ between architectures")]
impl From<rustix::fs::Stat> for Stat {
    fn from(stat: rustix::fs::Stat) -> Stat {
        Stat {
            mode: stat.st_mode as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime_ns: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            ino: stat.st_ino as u64,
            dev: stat.st_dev as u64,
            nlink: stat.st_nlink as u64,
            rdev: stat.st_rdev as u64,
            blocks: stat.st_blocks as u64,
        }
    }
}

impl From<&std::fs::Metadata> for Stat {
    fn from(meta: &std::fs::Metadata) -> Stat {
        use std::os::unix::fs::MetadataExt;
        Stat {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size(),
            mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanos(meta.ctime(), meta.ctime_nsec()),
            ino: meta.ino(),
            dev: meta.dev(),
            nlink: meta.nlink(),
            rdev: meta.rdev(),
            blocks: meta.blocks(),
        }
    }
}

/// Seconds and nanoseconds as one number; times outside 1677 to 2262 are clamped.
fn nanos(secs: i64, nanos: i64) -> i64 {
    secs.saturating_mul(NANOS).saturating_add(nanos)
}

/// One number as seconds and nanoseconds, the latter never negative.
pub(crate) fn timespec(ns: i64) -> rustix::fs::Timespec {
    rustix::fs::Timespec { tv_sec: ns.div_euclid(NANOS), tv_nsec: ns.rem_euclid(NANOS) as _ }
}

/// Makes a device number.
pub fn makedev(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_positive_nanoseconds() {
        let ts = timespec(-1);
        assert_eq!((ts.tv_sec, ts.tv_nsec), (-1, 999_999_999));
        assert_eq!(nanos(-1, 999_999_999), -1);
    }

    #[test]
    fn only_device_zero_is_a_whiteout() {
        let meta = std::fs::metadata("/dev/null").expect("/dev/null exists");
        let stat = Stat::from(&meta);
        assert_eq!(stat.device_numbers(), (1, 3));
        assert!(!stat.is_overlay_whiteout());
        assert!(Stat { rdev: 0, ..stat }.is_overlay_whiteout());
    }
}
