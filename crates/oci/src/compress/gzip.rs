use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use libdeflater::{CompressionLvl, Compressor as Deflater};

use super::{CompressError, Compressor};

/// The highest level we take: libdeflate has up to 12, but upstream's options end at 9.
pub(super) const MAX_LEVEL: i32 = 9;
/// 142 MB/s and .341 on one core, where level 6 has 97 MB/s and .332: not worth a third of the time.
pub(super) const DEFAULT_LEVEL: i32 = 4;
/// Bytes of input per member. Smaller ones lose ratio (each starts with an empty window), larger ones parallelism.
/// Part of the output's identity: changing it changes the digests of all gzip layers.
const MEMBER: usize = 1 << 20;

/// gzip by independent members of 1 MiB of input each, on several threads, in order.
///
/// The threads are owned: they end when the job channel is dropped, and are joined by `finish` and by `Drop`.
/// Memory: at most two blocks per thread, packed and unpacked.
pub(super) struct ParallelGzip {
    inner: Option<Box<dyn Write + Send>>,
    level: i32,
    buffer: Vec<u8>,
    threads: usize,
    wrote_any: bool,
    pool: Option<Pool>,
}

struct Pool {
    jobs: SyncSender<Job>,
    /// Results in the order of submission.
    waiting: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    workers: Vec<JoinHandle<()>>,
}

struct Job {
    input: Vec<u8>,
    reply: SyncSender<io::Result<Vec<u8>>>,
}

impl ParallelGzip {
    pub(super) fn new(
        inner: Box<dyn Write + Send>,
        level: i32,
        threads: usize,
    ) -> Result<Self, CompressError> {
        deflater(level)?;
        Ok(Self { inner: Some(inner), level, buffer: Vec::new(), threads, wrote_any: false, pool: None })
    }

    /// Hands the full buffer to the threads, which are started by the first one: small layers need none.
    fn submit(&mut self) -> io::Result<()> {
        let input = std::mem::replace(&mut self.buffer, Vec::with_capacity(MEMBER));
        if self.pool.is_none() {
            self.pool = Some(Pool::start(self.threads, self.level)?);
        }
        let limit = self.threads * 2;
        while self.pool.as_ref().is_some_and(|pool| pool.waiting.len() >= limit) {
            self.write_next()?;
        }
        let Some(pool) = &mut self.pool else { return Ok(()) };
        let (reply, receiver) = sync_channel(1);
        pool.jobs.send(Job { input, reply }).map_err(|_| died())?;
        pool.waiting.push_back(receiver);
        Ok(())
    }

    fn write_next(&mut self) -> io::Result<()> {
        let next = self.pool.as_mut().and_then(|pool| pool.waiting.pop_front());
        let Some(receiver) = next else { return Ok(()) };
        let member = receiver.recv().map_err(|_| died())??;
        self.put(&member)
    }

    fn put(&mut self, member: &[u8]) -> io::Result<()> {
        self.wrote_any = true;
        self.inner.as_mut().ok_or_else(died)?.write_all(member)
    }
}

impl Write for ParallelGzip {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = MEMBER - self.buffer.len();
        let taken = room.min(buf.len());
        self.buffer.extend_from_slice(&buf[..taken]);
        if self.buffer.len() == MEMBER {
            self.submit()?;
        }
        Ok(taken)
    }

    /// Members end where the input says, never where somebody flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Compressor for ParallelGzip {
    fn finish(mut self: Box<Self>) -> Result<Box<dyn Write + Send>, CompressError> {
        while self.pool.as_ref().is_some_and(|pool| !pool.waiting.is_empty()) {
            self.write_next()?;
        }
        if !self.buffer.is_empty() || !self.wrote_any {
            let member = pack(&mut deflater(self.level)?, &std::mem::take(&mut self.buffer))?;
            self.put(&member)?;
        }
        let mut inner = self.inner.take().ok_or_else(died)?;
        inner.flush()?;
        Ok(inner)
    }
}

impl Pool {
    fn start(threads: usize, level: i32) -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self { jobs, waiting: VecDeque::new(), workers: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let queue = queue.clone();
            let builder = std::thread::Builder::new().name("gzip".into());
            pool.workers.push(builder.spawn(move || work(&queue, level))?);
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.waiting.clear();
        // The workers end when the channel closes.
        drop(std::mem::replace(&mut self.jobs, sync_channel(0).0));
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                // A panic in a worker was seen by whoever waited for its reply.
                continue;
            }
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, level: i32) {
    let Ok(mut deflater) = deflater(level) else { return };
    loop {
        // Held while waiting for a job: the others wait for the lock instead, which is the same.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { input, reply }) = job else { return };
        // Nobody listens any more if the compressor was dropped.
        if reply.send(pack(&mut deflater, &input)).is_err() {
            continue;
        }
    }
}

fn deflater(level: i32) -> io::Result<Deflater> {
    let level = CompressionLvl::new(level).map_err(|_| io::Error::other("invalid gzip level"))?;
    Ok(Deflater::new(level))
}

fn pack(deflater: &mut Deflater, input: &[u8]) -> io::Result<Vec<u8>> {
    let mut output = vec![0; deflater.gzip_compress_bound(input.len())];
    let length = deflater
        .gzip_compress(input, &mut output)
        .map_err(|_| io::Error::other("gzip bound was too small"))?;
    output.truncate(length);
    Ok(output)
}

fn died() -> io::Error {
    io::Error::other("a compression thread died")
}

impl std::fmt::Debug for ParallelGzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParallelGzip").field("level", &self.level).field("threads", &self.threads).finish()
    }
}
