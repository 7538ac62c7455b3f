//! Sender and receiver against each other, and a receiver against hostile senders.

mod forms;
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

use super::receive::{Say, run, run_as};
use super::send::{SendOptions, SenderCall, batches, serve_sender};
use super::{
    ExportRoot, ExtraFile, FileSyncRequest, Form, Owner, Packet, ReceiveOptions, RecordHasher, Stat,
    TreeIndex, opened,
};
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

/// Both ways for packets to travel, the second with and without compression.
const FORMS: [Form; 3] = [Form::Single, Form::Batched { compress: false }, Form::Batched { compress: true }];

/// A context transfer in memory: what a client would send of `from` into `to`.
async fn sync(
    from: &Path,
    to: &Path,
    prev: Option<&TreeIndex>,
    filter: FileSyncRequest,
    options: &ReceiveOptions,
) -> Result<TreeIndex> {
    sync_as(Form::Single, from, to, prev, filter, options).await
}

async fn sync_as(
    form: Form,
    from: &Path,
    to: &Path,
    prev: Option<&TreeIndex>,
    filter: FileSyncRequest,
    options: &ReceiveOptions,
) -> Result<TreeIndex> {
    let root = Root::open(from)?;
    let sending = SendOptions { owner: Owner::Set(0, 0), ..SendOptions::default() };
    let roots = vec![ExportRoot { directory: None, root, extra: Vec::new() }];
    let call = SenderCall { roots, filter, options: sending, form };
    carry(call, to, prev, Some(Arc::new(TestHasher)), options).await
}

/// A sender and a receiver, and the way between them.
async fn carry(
    call: SenderCall,
    to: &Path,
    prev: Option<&TreeIndex>,
    hasher: Option<Arc<dyn RecordHasher>>,
    options: &ReceiveOptions,
) -> Result<TreeIndex> {
    let (say, said) = mpsc::unbounded_channel();
    let (out, batched) = batches();
    let form = call.form;
    let requests = UnboundedReceiverStream::new(said).map(|say: Say| Ok(say.into_packet()));
    let sender = serve_sender(requests, out, call);
    let on_the_wire = |batch: super::Batch| {
        let bytes = prost::Message::encode_to_vec(&batch.unwrap());
        Ok(<super::PacketBatch as prost::Message>::decode(bytes.as_slice()).unwrap())
    };
    let packets = opened(ReceiverStream::new(batched).map(on_the_wire));
    let receiver = run_as(form, packets, say, Root::open(to)?, prev, hasher, options);
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
    feed_as(Form::Single, packets, to, prev).await
}

async fn feed_as(form: Form, packets: Vec<Packet>, to: &Path, prev: Option<&TreeIndex>) -> Result<TreeIndex> {
    let (say, _said) = mpsc::unbounded_channel();
    let packets = futures::stream::iter(packets.into_iter().map(Ok));
    let (root, hasher) = (Root::open(to)?, Some(Arc::new(TestHasher) as Arc<dyn RecordHasher>));
    run_as(form, packets, say, root, prev, hasher, &ReceiveOptions::default()).await
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
