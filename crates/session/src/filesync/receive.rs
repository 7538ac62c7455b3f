//! The receiving end: checks the list, asks for what differs, hands entries to the writer.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use http::uri::PathAndQuery;
use rbuild_api::fsutil::types::packet::PacketType;
use rbuild_sys::Root;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use self::plan::Plan;
use super::batch::{Form, PacketBatch, opened};
use super::disk::Disk;
use super::writer::Job;
use super::{FileSyncRequest, Packet, ReceiveOptions, RecordHasher, TransferCounter, TreeIndex};
use crate::{Result, Session, SessionError, names};

/// Largest DATA packet taken; senders keep to 32 KiB.
const MAX_DATA: usize = 256 * 1024;
/// Requests that travel in one batch.
const REQUESTS: usize = 512;
/// Largest packet of any kind: a STAT with all its attributes; or largest batch.
const MAX_PACKET: usize = 8 * 1024 * 1024;
/// Files up to this size are handed over whole.
const SMALL_FILE: usize = 128 * 1024;
/// Bytes of small files that may be waiting for their end, all together.
const MAX_BUFFERED: usize = 8 * 1024 * 1024;
/// Files that may be half written at a time. Senders interleave a handful.
const MAX_OPEN: usize = 256;
/// A file may turn out this much larger than announced (a log that grows), or twice as large, whatever is more.
const MAX_GROWTH: u64 = 64 * 1024 * 1024;

/// What a receiver says.
///
/// Kept small and sent through an unbounded channel: a receiver that waited for the sender to take its requests, while
/// the sender waits for its list to be read, would hang. There is at most one request per listed entry, and those are
/// limited.
#[derive(Debug)]
pub(crate) enum Say {
    Request(u32),
    Fin,
    Failed(String),
}

impl Say {
    pub(crate) fn into_packet(self) -> Packet {
        let (kind, id, data) = match self {
            Say::Request(id) => (PacketType::PacketReq, id, Bytes::new()),
            Say::Fin => (PacketType::PacketFin, 0, Bytes::new()),
            Say::Failed(text) => (PacketType::PacketErr, 0, text.into()),
        };
        Packet { r#type: kind as i32, id, data, stat: None }
    }
}

/// Brings `dest` to the state of a client's directory and says what is in it.
///
/// `prev`: what an earlier transfer left in `dest`, which nobody else has touched since; files that are equal to it are
/// not transferred. Without it `dest` is emptied first (unless `options.merge`).
/// Errors: the transfer may have changed `dest` in part, so an index of it is no longer true: forget it.
/// Cancel: by drop, or by the end of the session; the writer stops before its next entry.
pub async fn receive(
    session: &Session,
    request: &FileSyncRequest,
    dest: Root,
    prev: Option<&TreeIndex>,
    hasher: Arc<dyn RecordHasher>,
    options: &ReceiveOptions,
) -> Result<TreeIndex> {
    let (say, said) = mpsc::unbounded_channel();
    let said = UnboundedReceiverStream::new(said).map(Say::into_packet);
    session
        .until_closed(async {
            if session.supports(names::FILE_SYNC_BATCHED) {
                let said = said.ready_chunks(REQUESTS);
                let said = said.map(|packets| PacketBatch { packets, zstd: Bytes::new() });
                let form = Form::Batched { compress: false };
                let batches =
                    call::<_, PacketBatch>(session, names::FILE_SYNC_BATCHED, said, request, options);
                let incoming = opened(batches.await?);
                return run_as(form, incoming, say, dest, prev, Some(hasher), options).await;
            }
            session.require(names::FILE_SYNC_DIFF_COPY)?;
            let incoming = call::<_, Packet>(session, names::FILE_SYNC_DIFF_COPY, said, request, options);
            run(incoming.await?, say, dest, prev, Some(hasher), options).await
        })
        .await
}

/// Calls a method of the client's that takes and gives messages of one type.
async fn call<S, M>(
    session: &Session,
    method: &'static str,
    said: S,
    request: &FileSyncRequest,
    options: &ReceiveOptions,
) -> Result<Streaming<M>>
where
    S: Stream<Item = M> + Send + 'static,
    M: prost::Message + Default + Send + 'static,
{
    let mut call = tonic::Request::new(said);
    request.to_metadata(call.metadata_mut())?;
    let mut grpc = tonic::client::Grpc::new(session.channel()).max_decoding_message_size(MAX_PACKET);
    let answer = async {
        let ready = grpc.ready().await;
        ready.map_err(|err| Status::unavailable(err.to_string()))?;
        grpc.streaming(call, PathAndQuery::from_static(method), ProstCodec::<M, M>::default()).await
    };
    let stalled = |_| SessionError::Stalled { waited: options.limits.stall, last: String::new() };
    let answer = tokio::time::timeout(options.limits.stall, answer).await.map_err(stalled)?;
    let failed = |status| SessionError::call(format!("transfer of `{}`", request.name), status);
    Ok(answer.map_err(failed)?.into_inner())
}

/// Where packets come from.
pub(crate) trait Incoming: Stream<Item = std::result::Result<Packet, Status>> + Unpin + Send {}
impl<T: Stream<Item = std::result::Result<Packet, Status>> + Unpin + Send> Incoming for T {}

/// The receiving end on any pair of packet streams. Without a hasher the digests in the index are all zero.
pub(crate) async fn run(
    incoming: impl Incoming,
    say: mpsc::UnboundedSender<Say>,
    dest: Root,
    prev: Option<&TreeIndex>,
    hasher: Option<Arc<dyn RecordHasher>>,
    options: &ReceiveOptions,
) -> Result<TreeIndex> {
    run_as(Form::Single, incoming, say, dest, prev, hasher, options).await
}

/// As [`run`], for packets that travelled in `form`.
pub(crate) async fn run_as(
    form: Form,
    incoming: impl Incoming,
    say: mpsc::UnboundedSender<Say>,
    dest: Root,
    prev: Option<&TreeIndex>,
    hasher: Option<Arc<dyn RecordHasher>>,
    options: &ReceiveOptions,
) -> Result<TreeIndex> {
    let disk = Disk::start(&dest, hasher.as_ref(), options.owner)?;
    let mut receiver = Receiver {
        input: Input { incoming, stall: options.limits.stall, counter: options.counter.clone() },
        say,
        disk,
        ends_by_size: form.ends_by_size(),
        plan: Plan::new(prev, options),
        wanted: HashMap::new(),
        buffered: 0,
        open: 0,
    };
    let result = async {
        if prev.is_none() && !options.merge {
            receiver.disk.order(Job::Clear).await?;
        }
        receiver.transfer().await
    }
    .await;
    receiver.conclude(result).await
}

struct Input<S> {
    incoming: S,
    stall: Duration,
    counter: Arc<TransferCounter>,
}

impl<S: Incoming> Input<S> {
    /// The next packet; `None` at the end of the stream.
    async fn next(&mut self, plan: &Plan<'_>) -> Result<Option<Packet>> {
        // A timer only when there is something to wait for: most packets are here already.
        let item = match self.incoming.next().now_or_never() {
            Some(item) => item,
            None => tokio::time::timeout(self.stall, self.incoming.next())
                .await
                .map_err(|_| SessionError::Stalled { waited: self.stall, last: plan.last() })?,
        };
        let packet = match item {
            None => return Ok(None),
            Some(Err(status)) => return Err(SessionError::call("file transfer", status)),
            Some(Ok(packet)) => packet,
        };
        let size = packet.data.len() + packet.stat.as_ref().map_or(0, prost::Message::encoded_len);
        self.counter.add_bytes(size as u64);
        Ok(Some(packet))
    }
}

/// A file that was asked for.
#[derive(Default)]
struct Wanted {
    received: u64,
    /// Pieces held until the file's end, while it is small.
    pieces: Vec<Bytes>,
    is_open: bool,
}

struct Receiver<'a, S> {
    input: Input<S>,
    say: mpsc::UnboundedSender<Say>,
    disk: Disk,
    /// A file ends with its last byte, not with an empty packet.
    ends_by_size: bool,
    plan: Plan<'a>,
    wanted: HashMap<u32, Wanted>,
    buffered: usize,
    open: usize,
}

impl<S: Incoming> Receiver<'_, S> {
    /// From the first STAT to the last byte. The orders have been given then, not yet carried out.
    async fn transfer(&mut self) -> Result<()> {
        let mut listing = true;
        while listing || !self.wanted.is_empty() {
            let Some(packet) = self.input.next(&self.plan).await? else {
                return Err(SessionError::Ended { last: self.plan.last() });
            };
            match PacketType::try_from(packet.r#type) {
                Ok(PacketType::PacketStat) if !listing => {
                    return Err(SessionError::violation("an entry after the end of the list", ""));
                }
                Ok(PacketType::PacketStat) => match packet.stat {
                    Some(stat) => self.entry(stat).await?,
                    None => {
                        listing = false;
                        let jobs = self.plan.end_of_list()?;
                        self.order_all(jobs).await?;
                    }
                },
                Ok(PacketType::PacketData) => self.data(packet.id, packet.data).await?,
                Ok(PacketType::PacketErr) => return Err(remote(&packet.data)),
                Ok(PacketType::PacketFin) => {
                    return Err(SessionError::Ended { last: self.plan.last() });
                }
                Ok(PacketType::PacketReq) | Err(_) => {
                    return Err(SessionError::violation("a packet of an unexpected type", ""));
                }
            }
        }
        self.disk.files_done().await?;
        let jobs = self.plan.closing();
        self.order_all(jobs).await
    }

    async fn entry(&mut self, stat: super::Stat) -> Result<()> {
        let step = self.plan.entry(stat)?;
        self.order_all(step.jobs).await?;
        if let Some(id) = step.request {
            self.wanted.insert(id, Wanted::default());
            self.tell(Say::Request(id))?;
        }
        Ok(())
    }

    async fn data(&mut self, id: u32, bytes: Bytes) -> Result<()> {
        if bytes.len() > MAX_DATA {
            return Err(SessionError::Limit { what: "bytes in a packet", limit: MAX_DATA as u64 });
        }
        let Some(file) = self.wanted.get_mut(&id) else {
            return Err(SessionError::violation("data of a file that was not asked for", ""));
        };
        if bytes.is_empty() {
            return self.end_of_file(id).await;
        }
        file.received += bytes.len() as u64;
        let announced = self.plan.size(id);
        if file.received > announced + announced.max(MAX_GROWTH) {
            return Err(SessionError::violation("a file does not end", self.plan.path(id)));
        }
        let ended = self.ends_by_size && file.received >= announced;
        if self.ends_by_size && file.received > announced {
            return Err(SessionError::violation("more data than was announced", self.plan.path(id)));
        }
        if file.is_open {
            self.disk.order(Job::Data { entry: id, bytes }).await?;
        } else {
            self.buffered += bytes.len();
            file.pieces.push(bytes);
            if file.received > SMALL_FILE as u64 || self.buffered > MAX_BUFFERED {
                self.open(id).await?;
            }
        }
        if ended { self.end_of_file(id).await } else { Ok(()) }
    }

    /// Starts writing a file before its end has come.
    async fn open(&mut self, id: u32) -> Result<()> {
        self.open += 1;
        if self.open > MAX_OPEN {
            return Err(SessionError::Limit { what: "files sent at the same time", limit: MAX_OPEN as u64 });
        }
        let pieces = self.wanted.get_mut(&id).map(|file| {
            file.is_open = true;
            std::mem::take(&mut file.pieces)
        });
        self.disk.order(Job::Open { entry: id, stat: self.plan.stat(id) }).await?;
        for bytes in pieces.unwrap_or_default() {
            self.buffered -= bytes.len();
            self.disk.order(Job::Data { entry: id, bytes }).await?;
        }
        Ok(())
    }

    async fn end_of_file(&mut self, id: u32) -> Result<()> {
        let Some(file) = self.wanted.remove(&id) else { return Ok(()) };
        let announced = self.plan.size(id);
        if file.received < announced {
            let path = self.plan.path(id);
            return Err(SessionError::Short { path, announced, received: file.received });
        }
        self.input.counter.add_file();
        // A file that grew meanwhile: what came is what counts.
        self.plan.set_size(id, file.received);
        if file.is_open {
            self.open -= 1;
            return self.disk.order(Job::Close { entry: id, size: file.received }).await;
        }
        self.buffered -= file.received as usize;
        self.disk.order(Job::File { entry: id, stat: self.plan.stat(id), content: file.pieces }).await
    }

    async fn order_all(&mut self, jobs: Vec<Job>) -> Result<()> {
        for job in jobs {
            self.disk.order(job).await?;
        }
        Ok(())
    }

    fn tell(&self, what: Say) -> Result<()> {
        let ended = |_| SessionError::Ended { last: self.plan.last() };
        self.say.send(what).map_err(ended)
    }

    /// Waits for the disk, tells the sender how it went and hears its farewell.
    async fn conclude(self, result: Result<()>) -> Result<TreeIndex> {
        let Self { mut input, say, disk, plan, .. } = self;
        let written = disk.finish(result.is_err()).await;
        let finished = match (result, written) {
            (Ok(()), written) => written,
            // No order could be given: a thread had ended, and its error is the cause.
            (Err(SessionError::Cancelled), Err(err)) => Err(err),
            (Err(err), _) => Err(err),
        };
        let digests = match finished {
            Ok(digests) => digests,
            Err(err) => {
                // If the sender is gone, nobody is left to be told.
                drop(say.send(Say::Failed(err.to_string())));
                return Err(err);
            }
        };
        say.send(Say::Fin).map_err(|_| SessionError::Ended { last: plan.last() })?;
        match input.next(&plan).await? {
            None => {}
            Some(packet) if packet.r#type == PacketType::PacketFin as i32 => {}
            Some(packet) if packet.r#type == PacketType::PacketErr as i32 => {
                return Err(remote(&packet.data));
            }
            Some(_) => return Err(SessionError::violation("a packet after everything was sent", "")),
        }
        Ok(plan.into_index(digests))
    }
}

fn remote(text: &[u8]) -> SessionError {
    let text = String::from_utf8_lossy(text).chars().take(4096).collect();
    SessionError::Remote { peer: "sender", text }
}
