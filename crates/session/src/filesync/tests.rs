//! Sender and receiver against each other, and a receiver against hostile senders.

mod hostile;
mod machine;
mod round_trip;

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use rbuild_digest::Hasher;
use rbuild_sys::Root;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};

use super::receive::{Say, run};
use super::send::{SendOptions, SenderCall, batches, serve_sender};
use super::{ExportRoot, FileSyncRequest, Owner, Packet, ReceiveOptions, RecordHasher, Stat, TreeIndex};
use crate::{Result, mode};

/// A header that says all that matters, like the real one.
struct TestHasher;

impl RecordHasher for TestHasher {
    fn start(&self, stat: &Stat) -> Hasher {
        let mut hasher = Hasher::new();
        hasher.field(format!("{} {} {:?}", stat.mode, stat.size, stat.linkname));
        hasher
    }
}

fn digest(stat: &Stat, content: &[u8]) -> rbuild_digest::Digest {
    let mut hasher = TestHasher.start(stat);
    hasher.update(content);
    hasher.finish()
}

/// A context transfer in memory: what a client would send of `from` into `to`.
async fn sync(
    from: &Path,
    to: &Path,
    prev: Option<&TreeIndex>,
    filter: FileSyncRequest,
    options: &ReceiveOptions,
) -> Result<TreeIndex> {
    let (say, said) = mpsc::unbounded_channel();
    let (out, batched) = batches();
    let root = Root::open(from)?;
    let sending = SendOptions { owner: Owner::Set(0, 0), ..SendOptions::default() };
    let call = SenderCall { roots: vec![ExportRoot { directory: None, root }], filter, options: sending };
    let requests = UnboundedReceiverStream::new(said).map(|say: Say| Ok(say.into_packet()));
    let sender = serve_sender(requests, out, call);
    let packets =
        ReceiverStream::new(batched).flat_map(|batch| futures::stream::iter(batch.unwrap()).map(Ok));
    let receiver = run(packets, say, Root::open(to)?, prev, Some(Arc::new(TestHasher)), options);
    let (sent, received) = tokio::join!(sender, receiver);
    let index = received?;
    sent?;
    Ok(index)
}

async fn sync_all(from: &Path, to: &Path, prev: Option<&TreeIndex>) -> Result<TreeIndex> {
    sync(from, to, prev, FileSyncRequest::default(), &ReceiveOptions::default()).await
}

/// A receiver that is fed these packets, one after the other; what it said is lost.
async fn feed(packets: Vec<Packet>, to: &Path, prev: Option<&TreeIndex>) -> Result<TreeIndex> {
    let (say, _said) = mpsc::unbounded_channel();
    let packets = futures::stream::iter(packets.into_iter().map(Ok));
    run(packets, say, Root::open(to)?, prev, Some(Arc::new(TestHasher)), &ReceiveOptions::default()).await
}

fn packet(kind: i32, id: u32, data: &[u8], stat: Option<Stat>) -> Packet {
    Packet { r#type: kind, id, data: data.to_vec().into(), stat }
}

fn listed(stat: Stat) -> Packet {
    packet(0, 0, b"", Some(stat))
}

fn end_of_list() -> Packet {
    packet(0, 0, b"", None)
}

fn data(id: u32, bytes: &[u8]) -> Packet {
    packet(2, id, bytes, None)
}

fn fin() -> Packet {
    packet(3, 0, b"", None)
}

fn file(path: &str, size: i64) -> Stat {
    Stat { path: path.into(), mode: 0o644, size, mod_time: 1_000_000_007, ..Stat::default() }
}

fn dir(path: &str) -> Stat {
    Stat { path: path.into(), mode: mode::DIR | 0o755, ..Stat::default() }
}

fn link(path: &str, target: &str) -> Stat {
    Stat { path: path.into(), mode: mode::SYMLINK | 0o777, linkname: target.into(), ..Stat::default() }
}

fn hard(path: &str, target: &str) -> Stat {
    Stat { linkname: target.into(), ..file(path, 0) }
}
