//! Go's `os.FileMode` bits, which travel in `Stat.mode`, and how they map to `st_mode`.

/// Directory.
pub const DIR: u32 = 1 << 31;
/// Symbolic link.
pub const SYMLINK: u32 = 1 << 27;
/// Device node; with [`CHAR_DEVICE`] a character device.
pub const DEVICE: u32 = 1 << 26;
/// Named pipe.
pub const NAMED_PIPE: u32 = 1 << 25;
/// Unix socket.
pub const SOCKET: u32 = 1 << 24;
/// Set user id.
pub const SETUID: u32 = 1 << 23;
/// Set group id.
pub const SETGID: u32 = 1 << 22;
/// Character device.
pub const CHAR_DEVICE: u32 = 1 << 21;
/// Sticky.
pub const STICKY: u32 = 1 << 20;
/// Not a regular file, but nothing known either.
pub const IRREGULAR: u32 = 1 << 19;
/// All type bits; none set means a regular file.
pub const TYPE: u32 = DIR | SYMLINK | DEVICE | NAMED_PIPE | SOCKET | CHAR_DEVICE | IRREGULAR;
const KNOWN: u32 = TYPE | SETUID | SETGID | STICKY | 0o777;

const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFREG: u32 = 0o100_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFIFO: u32 = 0o010_000;

/// `st_mode` → Go mode.
pub fn from_unix(mode: u32) -> u32 {
    let kind = match mode & S_IFMT {
        S_IFDIR => DIR,
        S_IFLNK => SYMLINK,
        S_IFBLK => DEVICE,
        S_IFCHR => DEVICE | CHAR_DEVICE,
        S_IFIFO => NAMED_PIPE,
        S_IFSOCK => SOCKET,
        S_IFREG => 0,
        _ => IRREGULAR,
    };
    let bits = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
    let special = bits.iter().filter(|(unix, _)| mode & unix != 0).fold(0, |acc, (_, go)| acc | go);
    kind | special | (mode & 0o777)
}

/// Go mode → `st_mode` with type bits; `None` if it is no combination that names one kind of inode.
pub fn to_unix(mode: u32) -> Option<u32> {
    if mode & !KNOWN != 0 {
        return None;
    }
    let kind = match mode & TYPE {
        0 => S_IFREG,
        DIR => S_IFDIR,
        SYMLINK => S_IFLNK,
        DEVICE => S_IFBLK,
        NAMED_PIPE => S_IFIFO,
        SOCKET => S_IFSOCK,
        kind if kind == DEVICE | CHAR_DEVICE => S_IFCHR,
        _ => return None,
    };
    Some(kind | permissions(mode))
}

/// The lower twelve bits as `chmod` takes them.
pub fn permissions(mode: u32) -> u32 {
    let bits = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
    bits.iter().filter(|(_, go)| mode & go != 0).fold(mode & 0o777, |acc, (unix, _)| acc | unix)
}

/// A regular file (a hard link is one, too)?
pub fn is_regular(mode: u32) -> bool {
    mode & TYPE == 0
}

/// A directory?
pub fn is_dir(mode: u32) -> bool {
    mode & TYPE == DIR
}

/// A symbolic link?
pub fn is_symlink(mode: u32) -> bool {
    mode & TYPE == SYMLINK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_modes_round_trip() {
        for unix in [0o100_644, 0o104_755, 0o041_777, 0o120_777, 0o060_600, 0o020_600, 0o010_644, 0o140_755] {
            assert_eq!(to_unix(from_unix(unix)), Some(unix), "{unix:o}");
        }
    }

    #[test]
    fn mixed_or_unknown_types_are_refused() {
        for bad in [DIR | SYMLINK, CHAR_DEVICE, IRREGULAR, 1 << 30, 1 << 12, DIR | DEVICE | CHAR_DEVICE] {
            assert_eq!(to_unix(bad | 0o644), None, "{bad:b}");
        }
    }
}
