//! Packets as they are on the wire.
//!
//! The protocol's definition calls names *strings*, but the peer sends whatever bytes a file system has, and reads them
//! back the same. So these are the generated types with bytes in place of strings: same numbers, same encoding, and any
//! name that Linux allows travels unchanged.

use std::collections::BTreeMap;

use bytes::Bytes;
use rbuild_api::fsutil::types::packet::PacketType;

/// One entry of a file list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    /// Relative path, separated by `/`.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Go's `os.FileMode`; see [`crate::mode`].
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Bytes; zero for directories and hard links.
    #[prost(int64, tag = "5")]
    pub size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub mod_time: i64,
    /// Target of a symlink; of a regular file, the earlier path it is a hard link to.
    #[prost(bytes = "vec", tag = "7")]
    pub linkname: Vec<u8>,
    /// Of a device.
    #[prost(int64, tag = "8")]
    pub devmajor: i64,
    /// Of a device.
    #[prost(int64, tag = "9")]
    pub devminor: i64,
    /// Extended attributes.
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// One message of a transfer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Packet {
    #[prost(enumeration = "PacketType", tag = "1")]
    pub(crate) r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub(crate) id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: Bytes,
}

/// Bytes of a name as text for people.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_protocol() {
        let ours = Packet {
            r#type: 2,
            stat: Some(Stat {
                path: b"a/b".to_vec(),
                mode: 7,
                uid: 1,
                gid: 2,
                size: -3,
                mod_time: 4,
                linkname: b"c".to_vec(),
                devmajor: 5,
                devminor: 6,
                xattrs: [("user.x".to_owned(), vec![9])].into(),
            }),
            id: 8,
            data: Bytes::from_static(b"data"),
        };
        let bytes = ours.encode_to_vec();
        let theirs = rbuild_api::fsutil::types::Packet::decode(bytes.as_slice()).unwrap();
        assert_eq!(theirs.encode_to_vec(), bytes);
        let stat = theirs.stat.unwrap();
        assert_eq!(
            (stat.path.as_str(), stat.linkname.as_str(), stat.size, stat.devminor),
            ("a/b", "c", -3, 6)
        );
        assert_eq!(Packet::decode(bytes.as_slice()).unwrap(), ours);
    }
}
