//! The sending end: lists a directory, and answers requests for files.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rbuild_api::fsutil::types::packet::PacketType;
use rbuild_patterns::WalkFilter;
use rbuild_sys::Root;
use tokio::sync::mpsc;
use tonic::Status;

use super::batch::{Compressor, Form, PacketBatch};
use super::follow::follow_links;
use super::order::parent;
use super::receive::Incoming;
use super::walk::{ExportRoot, FileRef, walk};
use super::{FileSyncRequest, Packet, Stat, TransferCounter, shown};
use crate::{Result, SessionError};

/// Bytes in one DATA packet: what the peer's sender uses, and its receiver expects.
const CHUNK: usize = 32 * 1024;
/// The same in batches. Larger ones save nothing more, and a receiver may have a hundred waiting for each of its threads.
const LARGE_CHUNK: usize = 64 * 1024;
/// Small files that a reader takes at a time: neighbours, which share a directory…
const READ_FILES: usize = 16;
/// …and this many bytes of them, so that large ones are shared out.
const READ_BYTES: u64 = 128 * 1024;
/// Threads that read files ahead of the network.
const READERS: usize = 3;
/// A batch is sent when it has this many packets…
const BATCH_PACKETS: usize = 128;
/// …or this many bytes.
const BATCH_BYTES: usize = 256 * 1024;
/// Batches that may wait for the network: 4 MiB at most.
const BATCHES_IN_FLIGHT: usize = 16;

/// Whose the sent entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As on disk.
    Keep,
    /// This uid and gid; contexts are sent as root's.
    Set(u32, u32),
}

/// How a directory is sent.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// Whose the entries are.
    pub owner: Owner,
    /// Give every entry this time.
    pub set_mtime_ns: Option<i64>,
    /// Fail when the receiver neither says nor takes anything for so long.
    pub stall: Option<Duration>,
    /// Counts along.
    pub counter: Arc<TransferCounter>,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { owner: Owner::Keep, set_mtime_ns: None, stall: None, counter: TransferCounter::new() }
    }
}

/// Packets that go out together.
pub(crate) type Batch = std::result::Result<PacketBatch, Status>;

/// What a sender is to send.
#[derive(Debug)]
pub(crate) struct SenderCall {
    pub(crate) roots: Vec<ExportRoot>,
    /// Patterns; the name in it is not looked at.
    pub(crate) filter: FileSyncRequest,
    pub(crate) options: SendOptions,
    pub(crate) form: Form,
}

/// A channel of the right size for [`serve_sender`].
pub(crate) fn batches() -> (mpsc::Sender<Batch>, mpsc::Receiver<Batch>) {
    mpsc::channel(BATCHES_IN_FLIGHT)
}

/// What walker, readers and dispatcher share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    out: mpsc::Sender<Batch>,
    counter: Arc<TransferCounter>,
    form: Form,
    compressor: Compressor,
}

#[derive(Default)]
struct State {
    /// By id; `None` for what cannot be asked for (any more).
    files: Vec<Option<FileRef>>,
    wanted: VecDeque<(u32, FileRef)>,
    stopped: bool,
    /// The first failure of a thread.
    failure: Option<SessionError>,
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.state.lock().stopped = true;
        self.0.changed.notify_all();
    }
}

/// Sends until the receiver says FIN. Cancel: by drop.
///
/// Errors are also told to the receiver.
pub(crate) async fn serve_sender(
    mut incoming: impl Incoming,
    out: mpsc::Sender<Batch>,
    call: SenderCall,
) -> Result<()> {
    let result = exchange(&mut incoming, &out, call).await;
    let last = match &result {
        Ok(()) => packet(PacketType::PacketFin, 0, Bytes::new()),
        Err(SessionError::Remote { .. } | SessionError::Ended { .. }) => return result,
        Err(err) => packet(PacketType::PacketErr, 0, err.to_string().into()),
    };
    // A receiver that does not take its farewell within the time has failed, or will see the stream end.
    drop(
        tokio::time::timeout(
            Duration::from_secs(10),
            out.send(Ok(PacketBatch { packets: vec![last], zstd: Bytes::new() })),
        )
        .await,
    );
    result
}

async fn exchange(incoming: &mut impl Incoming, out: &mpsc::Sender<Batch>, call: SenderCall) -> Result<()> {
    let SenderCall { mut roots, filter, options, form } = call;
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        changed: Condvar::new(),
        out: out.clone(),
        counter: options.counter.clone(),
        form,
        compressor: Compressor::default(),
    });
    let _stop = StopOnDrop(shared.clone());
    let (ended, mut threads) = mpsc::channel::<()>(1);
    let stall = options.stall;
    roots.sort_by(|a, b| a.directory.cmp(&b.directory));
    let roots = Arc::new(roots);
    let (walker, walked) = (shared.clone(), roots.clone());
    spawn(&shared, ended.clone(), move || list(&walker, &walked, &filter, &options));
    for _ in 0..READERS {
        let (reader, roots) = (shared.clone(), roots.clone());
        spawn(&shared, ended.clone(), move || read_files(&reader, &roots));
    }
    let mut seen = shared.counter.bytes();
    loop {
        let next = tokio::time::timeout(stall.unwrap_or(Duration::MAX), futures::StreamExt::next(incoming));
        let item = tokio::select! {
            item = next => item,
            Some(()) = threads.recv() => {
                let failure = shared.state.lock().failure.take();
                match failure {
                    Some(err) => return Err(err),
                    None => continue,
                }
            }
        };
        match item {
            Err(_) => {
                let now = shared.counter.bytes();
                if now == seen {
                    let waited = stall.unwrap_or_default();
                    return Err(SessionError::Stalled { waited, last: String::new() });
                }
                seen = now;
            }
            Ok(None) => return Err(SessionError::Ended { last: String::new() }),
            Ok(Some(Err(status))) => return Err(SessionError::call("file transfer", status)),
            Ok(Some(Ok(packet))) => match PacketType::try_from(packet.r#type) {
                Ok(PacketType::PacketReq) => request(&shared, packet.id)?,
                Ok(PacketType::PacketFin) => return Ok(()),
                Ok(PacketType::PacketErr) => {
                    let text = String::from_utf8_lossy(&packet.data).chars().take(4096).collect();
                    return Err(SessionError::Remote { peer: "receiver", text });
                }
                _ => return Err(SessionError::violation("a packet of an unexpected type", "")),
            },
        }
    }
}

/// Runs one of the sender's threads on the blocking pool; they end when the transfer does ([`StopOnDrop`]).
fn spawn(shared: &Arc<Shared>, ended: mpsc::Sender<()>, work: impl FnOnce() -> Result<()> + Send + 'static) {
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(err) = work() {
            shared.state.lock().failure.get_or_insert(err);
            if ended.try_send(()).is_err() {
                tracing::trace!("another failure is being told already");
            }
        }
    });
}

fn request(shared: &Shared, id: u32) -> Result<()> {
    let mut state = shared.state.lock();
    let Some(file) = state.files.get_mut(id as usize).and_then(Option::take) else {
        return Err(SessionError::violation("request for something that is not a file, or a second one", ""));
    };
    state.wanted.push_back((id, file));
    drop(state);
    shared.changed.notify_one();
    Ok(())
}

fn packet(kind: PacketType, id: u32, data: Bytes) -> Packet {
    Packet { r#type: kind as i32, id, data, stat: None }
}

impl Shared {
    /// Blocking. Errors: cancelled, if nobody takes packets any more.
    fn flush(&self, batch: &mut Vec<Packet>, bytes: &mut usize) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.counter.add_bytes(*bytes as u64);
        *bytes = 0;
        let packets = std::mem::take(batch);
        let batch = match self.form.compresses() {
            true => self.compressor.pack(packets),
            false => PacketBatch { packets, zstd: Bytes::new() },
        };
        self.out.blocking_send(Ok(batch)).map_err(|_| SessionError::Cancelled)?;
        if self.state.lock().stopped { Err(SessionError::Cancelled) } else { Ok(()) }
    }
}

/// The walking thread.
fn list(
    shared: &Shared,
    trees: &[ExportRoot],
    request: &FileSyncRequest,
    options: &SendOptions,
) -> Result<()> {
    let filter = filter(trees, request)?;
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_PACKETS), 0);
    let mut files: Vec<Option<FileRef>> = Vec::with_capacity(BATCH_PACKETS);
    let mut emit = |stat: Stat, file: Option<FileRef>| {
        let xattrs = stat.xattrs.iter().map(|(key, value)| key.len() + value.len());
        bytes += stat.path.len() + stat.linkname.len() + xattrs.sum::<usize>();
        files.push(file);
        batch.push(Packet {
            r#type: PacketType::PacketStat as i32,
            stat: Some(stat),
            id: 0,
            data: Bytes::new(),
        });
        if batch.len() >= BATCH_PACKETS || bytes >= BATCH_BYTES {
            // Before the entries are on their way: they may be asked for at once.
            shared.state.lock().files.append(&mut files);
            shared.flush(&mut batch, &mut bytes)?;
        }
        Ok(())
    };
    walk(trees, &filter, options, &mut emit)?;
    shared.state.lock().files.append(&mut files);
    batch.push(packet(PacketType::PacketStat, 0, Bytes::new()));
    shared.flush(&mut batch, &mut bytes)
}

fn filter(trees: &[ExportRoot], request: &FileSyncRequest) -> Result<WalkFilter> {
    let pattern = |kind| {
        move |err: rbuild_patterns::PatternError| SessionError::Pattern { kind, text: err.to_string() }
    };
    let mut include = request.include.clone();
    if let ([ExportRoot { directory: None, root, .. }], false) = (trees, request.follow_paths.is_empty()) {
        match follow_links(root, &request.follow_paths)? {
            Some(targets) => include.extend(targets),
            None => include.clear(),
        }
    }
    WalkFilter::new(&include, &[]).map_err(pattern("include"))?;
    WalkFilter::new(&include, &request.exclude).map_err(pattern("exclude"))
}

/// A reading thread.
struct Reader<'a> {
    shared: &'a Shared,
    roots: &'a [ExportRoot],
    /// The directory that the last file was in: its tree, its path.
    dir: Option<(usize, Vec<u8>, Root)>,
    batch: Vec<Packet>,
    bytes: usize,
}

fn read_files(shared: &Shared, roots: &[ExportRoot]) -> Result<()> {
    let mut reader = Reader { shared, roots, dir: None, batch: Vec::new(), bytes: 0 };
    while let Some(files) = reader.next() {
        for (id, file) in files {
            reader.read(id, &file)?;
            if reader.bytes >= BATCH_BYTES || reader.batch.len() >= BATCH_PACKETS {
                reader.flush()?;
            }
        }
        if shared.state.lock().wanted.is_empty() {
            reader.flush()?;
        }
    }
    Ok(())
}

impl Reader<'_> {
    /// Some files to read, as soon as there are any; `None` when the transfer is over.
    fn next(&self) -> Option<Vec<(u32, FileRef)>> {
        let mut state = self.shared.state.lock();
        while state.wanted.is_empty() && !state.stopped {
            self.shared.changed.wait(&mut state);
        }
        if state.stopped {
            return None;
        }
        let (mut files, mut bytes) = (Vec::new(), 0);
        while files.len() < READ_FILES
            && bytes < READ_BYTES
            && let Some((id, file)) = state.wanted.pop_front()
        {
            bytes += file.size;
            files.push((id, file));
        }
        Some(files)
    }

    fn flush(&mut self) -> Result<()> {
        self.shared.flush(&mut self.batch, &mut self.bytes)
    }

    fn open(&mut self, file: &FileRef) -> Result<std::fs::File> {
        let root = &self.roots[file.tree].root;
        let Some(holder) = parent(&file.path) else {
            return Ok(root.open_seen_file(OsStr::from_bytes(&file.path))?);
        };
        let name = OsStr::from_bytes(&file.path[holder.len() + 1..]);
        if let Some((tree, path, dir)) = &self.dir
            && *tree == file.tree
            && path == holder
        {
            return Ok(dir.open_seen_file(name)?);
        }
        let dir = root.open_dir_nofollow(OsStr::from_bytes(holder))?;
        let opened = dir.open_seen_file(name)?;
        self.dir = Some((file.tree, holder.to_vec(), dir));
        Ok(opened)
    }

    /// Sends exactly as many bytes as were announced: what a growing file gained since is not part of the list.
    fn read(&mut self, id: u32, file: &FileRef) -> Result<()> {
        let input: Box<dyn Read> = match &file.data {
            Some(data) => Box::new(std::io::Cursor::new(data.clone())),
            None => Box::new(self.open(file)?),
        };
        let mut input = input.take(file.size);
        let by_size = self.shared.form.ends_by_size();
        let chunk = if by_size { LARGE_CHUNK } else { CHUNK };
        let mut left = file.size;
        while left > 0 {
            let mut data = vec![0; left.min(chunk as u64) as usize];
            let len = fill(&mut input, &mut data).map_err(|err| SessionError::io(shown(&file.path), err))?;
            if len == 0 {
                let received = file.size - left;
                return Err(SessionError::Short { path: shown(&file.path), announced: file.size, received });
            }
            data.truncate(len);
            left -= len as u64;
            self.bytes += len;
            self.batch.push(packet(PacketType::PacketData, id, data.into()));
            if self.bytes >= BATCH_BYTES {
                self.flush()?;
            }
        }
        self.shared.counter.add_file();
        if !by_size || file.size == 0 {
            self.batch.push(packet(PacketType::PacketData, id, Bytes::new()));
        }
        Ok(())
    }
}

/// Reads until `buf` is full or the file ends.
fn fill(input: &mut impl Read, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match input.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}
