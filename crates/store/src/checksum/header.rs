use rbuild_digest::Hasher;

const TYPE_MASK: u32 = 0o170_000;
const TYPE_SOCKET: u32 = 0o140_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_BLOCK: u32 = 0o060_000;
const TYPE_DIR: u32 = 0o040_000;
const TYPE_CHAR: u32 = 0o020_000;
const TYPE_FIFO: u32 = 0o010_000;

/// What a content digest sees of a file besides its bytes and its name: the fields of a V1 tarsum header.
///
/// Modification times, names of owners and access control lists are left out on purpose: they change
/// without the content changing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileHeader {
    /// `st_mode`: the type and the permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; only a regular file's counts.
    pub size: u64,
    /// Where a symbolic link points; empty for all else.
    pub link: Vec<u8>,
    /// Device numbers as a client sent them. Zero for what is read from disk: upstream's test for a
    /// device never holds there, and digests must be equal to be of use to others.
    pub device: (u64, u64),
    /// Extended attributes as (name, value), in any order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FileHeader {
    /// Turns the mode of a wire `Stat` (Go's `os.FileMode`) into `st_mode`.
    pub fn mode_from_wire(mode: u32) -> u32 {
        let bit = |n: u32| mode & (1 << n) != 0;
        let kind = match () {
            () if bit(31) => TYPE_DIR,
            () if bit(27) => TYPE_LINK,
            () if bit(26) && bit(21) => TYPE_CHAR,
            () if bit(26) => TYPE_BLOCK,
            () if bit(25) => TYPE_FIFO,
            () if bit(24) => TYPE_SOCKET,
            () => 0o100_000,
        };
        let special = u32::from(bit(23)) * 0o4000 + u32::from(bit(22)) * 0o2000 + u32::from(bit(20)) * 0o1000;
        kind | special | (mode & 0o777)
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_DIR
    }

    /// Whether this is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_LINK
    }

    /// Whether bytes follow the header.
    pub fn is_file(&self) -> bool {
        self.type_flag() == b'0'
    }

    fn type_flag(&self) -> u8 {
        match self.mode & TYPE_MASK {
            TYPE_DIR => b'5',
            TYPE_LINK => b'2',
            TYPE_CHAR => b'3',
            TYPE_BLOCK => b'4',
            TYPE_FIFO => b'6',
            // A socket counts as an empty file, as upstream has it.
            _ => b'0',
        }
    }

    /// A hasher that has seen the header. A regular file's bytes follow, then `finish`.
    pub fn hasher(&self) -> Hasher {
        let mut out = Hasher::new();
        // A link's permissions mean nothing and differ between systems: always 0777.
        let mode = self.mode & 0o7777 | if self.is_link() { 0o777 } else { 0 };
        let size = if self.is_file() { self.size } else { 0 };
        out.update("name").update(format!(
            "mode{mode}uid{}gid{}size{size}typeflag{}linkname",
            self.uid,
            self.gid,
            self.type_flag() as char
        ));
        if self.is_link() {
            out.update(&self.link);
        }
        out.update(format!("unamegnamedevmajor{}devminor{}", self.device.0, self.device.1));
        let mut xattrs: Vec<_> = self.xattrs.iter().filter(|(name, _)| counts(name)).collect();
        xattrs.sort();
        for (name, value) in xattrs {
            out.update(name).update(value);
        }
        out
    }
}

/// Whether an extended attribute belongs to the content. Labels (`security.*`) and access control lists
/// (`system.*`) belong to the machine, overlay's own marks to the storage driver.
fn counts(name: &[u8]) -> bool {
    name == b"security.capability"
        || !(name.starts_with(b"security.")
            || name.starts_with(b"system.")
            || name.starts_with(b"trusted.overlay."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_digest::Digest;

    fn file() -> FileHeader {
        FileHeader { mode: 0o100_644, size: 5, ..Default::default() }
    }

    #[test]
    fn a_header_is_keys_directly_followed_by_values() {
        let expected = "namemode420uid0gid0size5typeflag0linknameunamegnamedevmajor0devminor0";
        assert_eq!(file().hasher().finish(), Digest::of(expected));
        let link = FileHeader { mode: 0o120_700, size: 3, link: b"foo".to_vec(), ..Default::default() };
        let expected = "namemode511uid0gid0size0typeflag2linknamefoounamegnamedevmajor0devminor0";
        assert_eq!(link.hasher().finish(), Digest::of(expected));
    }

    #[test]
    fn labels_do_not_count_but_capabilities_do() {
        let with = |name: &[u8]| {
            FileHeader { xattrs: vec![(name.to_vec(), b"v".to_vec())], ..file() }.hasher().finish()
        };
        let plain = file().hasher().finish();
        for ignored in [&b"security.selinux"[..], b"system.posix_acl_access", b"trusted.overlay.opaque"] {
            assert_eq!(with(ignored), plain);
        }
        for counted in [&b"security.capability"[..], b"user.a", b"trusted.a"] {
            assert_ne!(with(counted), plain);
        }
    }

    #[test]
    fn wire_modes_become_unix_modes() {
        for (wire, unix) in [
            (0o644, 0o100_644),
            ((1 << 31) | 0o755, 0o040_755),
            ((1 << 27) | 0o777, 0o120_777),
            ((1 << 23) | 0o755, 0o104_755),
            ((1 << 31) | (1 << 20) | 0o777, 0o041_777),
            ((1 << 26) | (1 << 21) | 0o600, 0o020_600),
        ] {
            assert_eq!(FileHeader::mode_from_wire(wire), unix);
        }
    }
}
