//! What fuzz targets call: a function takes any bytes and panics if a claim about the crate does not hold.
//! Compiled for tests, which replay the kept inputs, and for `tests/fuzz` only.

#[cfg(test)]
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use rbuild_digest::Hasher;
use rbuild_sys::Root;
use tokio::sync::mpsc;

use crate::filesync::{
    Compressor, Form, Packet, PacketBatch, ReceiveOptions, RecordHasher, Stat, TreeIndex, run_receiver_as,
};
use crate::mode;

/// Says nothing of the entry, so that a file's digest is that of its bytes.
struct Content;

impl RecordHasher for Content {
    fn start(&self, _: &Stat) -> Hasher {
        Hasher::new()
    }
}

/// A receiver of a directory, against any sender. The first byte says in which form the packets come and how many of
/// them are a first transfer, the index of which the second one has; then packets follow as protobuf delimits them.
///
/// Claims: nothing is written outside of the directory; when a transfer succeeds the index is true: all that it names is
/// there, nothing else is, files have the size and the digest that it says.
pub fn packets(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let mut packets = Vec::new();
    while let Ok(packet) = Packet::decode_length_delimited(&mut rest) {
        packets.push(packet);
    }
    let second = packets.split_off(packets.len().min(usize::from(first >> 1)));
    let form = if first & 1 == 0 { Form::Single } else { Form::Batched { compress: false } };
    let outer = tempfile::tempdir().expect("a temporary directory");
    let to = outer.path().join("to");
    std::fs::create_dir(&to).expect("a directory in it");
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        let index = runtime.block_on(feed(form, packets, &to, None));
        if let Some(index) = index {
            let updated = runtime.block_on(feed(form, second, &to, Some(&index)));
            drop(updated);
        }
    });
    let left = std::fs::read_dir(outer.path()).expect("it is there still").count();
    assert_eq!(left, 1, "something was made beside the directory");
}

async fn feed(
    form: Form,
    packets: Vec<Packet>,
    to: &std::path::Path,
    prev: Option<&TreeIndex>,
) -> Option<TreeIndex> {
    let (say, _said) = mpsc::unbounded_channel();
    let incoming = futures::stream::iter(packets.into_iter().map(Ok));
    let root = Root::open(to).expect("the directory is there");
    let hasher: Option<Arc<dyn RecordHasher>> = Some(Arc::new(Content));
    let options = ReceiveOptions::default();
    let received = run_receiver_as(form, incoming, say, root, prev, hasher, &options).await;
    let index = received.ok()?;
    index_is_true(&index, to);
    Some(index)
}

fn index_is_true(index: &TreeIndex, dir: &std::path::Path) {
    let mut there: HashMap<Vec<u8>, std::fs::Metadata> = HashMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a directory that was written") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("an entry");
            if meta.is_dir() {
                open.push(path.clone());
            }
            let below = path.strip_prefix(dir).expect("it was found below");
            there.insert(below.as_os_str().as_bytes().to_vec(), meta);
        }
    }
    assert_eq!(there.len(), index.len(), "{index:?}");
    for entry in index.entries() {
        let meta = there.get(&entry.stat.path).unwrap_or_else(|| panic!("{:?} is missing", entry.stat.path));
        if mode::is_regular(entry.stat.mode) {
            assert!(meta.is_file());
            let bytes = std::fs::read(dir.join(OsStr::from_bytes(&entry.stat.path))).expect("a file");
            let mut hasher = Content.start(&entry.stat);
            hasher.update(&bytes);
            assert_eq!(hasher.finish(), entry.digest, "{:?}", entry.stat);
            let linked = !entry.stat.linkname.is_empty();
            assert!(linked || bytes.len() as i64 == entry.stat.size, "{:?}", entry.stat);
        }
    }
}

/// A message of the batched form, as it comes and as what is compressed within one.
///
/// Claims: never panics and never unpacks more than is allowed; compressed or not, the same packets come out; what our
/// own sender packs is opened again.
pub fn batch(data: &[u8]) {
    let plain = PacketBatch::decode(data).ok();
    let opened = plain.clone().and_then(|batch| batch.open().ok());
    let packed = zstd::bulk::compress(data, 1).expect("memory is enough");
    let packed = PacketBatch { packets: Vec::new(), zstd: Bytes::from(packed) }.open().ok();
    match (plain, &packed) {
        (Some(batch), packed) if batch.zstd.is_empty() => assert_eq!(Some(&batch.packets), packed.as_ref()),
        // A batch in a batch in a batch, or none at all.
        (_, packed) => assert_eq!(*packed, None),
    }
    let Some(packets) = opened else { return };
    assert!(packets.iter().map(|packet| packet.data.len()).sum::<usize>() <= 8 << 20);
    let again = Compressor::default().pack(packets.clone()).open();
    assert_eq!(again.ok(), Some(packets));
}

#[cfg(test)]
mod tests {
    #[test]
    fn root_kept_inputs_of_packets_hold() {
        super::replay::corpus("packets").iter().for_each(|input| super::packets(input));
    }

    #[test]
    fn kept_inputs_of_batch_hold() {
        super::replay::corpus("batch").iter().for_each(|input| super::batch(input));
    }
}
