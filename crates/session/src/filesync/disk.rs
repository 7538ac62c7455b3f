//! The threads that write a transfer: one for the structure, a few for files.
//!
//! The structure thread makes and removes entries in the order of the list. File threads create and fill files; each
//! order for a file waits until the structure has come as far as it was when the order was given, so parents are there
//! and what is replaced is gone. Hard links and the final times of directories are structure again, ordered after
//! [`Disk::files_done`]. The structure never waits for files, so there is nothing to deadlock on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use rbuild_sys::Root;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::RecordHasher;
use super::writer::{Digests, Job, Writer};
use crate::{Result, SessionError};

/// Orders that may wait for one thread. With the largest packet this bounds memory at 32 MiB a thread for a hostile
/// sender and 4 MiB (8 MiB in batches) for an honest one; fewer would let the disk idle between packets.
const JOBS_IN_FLIGHT: usize = 128;
/// File systems hand out inodes in parallel only so far.
const MAX_FILE_THREADS: usize = 4;
/// Neighbours in the list go to one thread: they share a directory, which is locked while a file is made in it.
const NEIGHBOURS: u32 = 32;

/// How far the structure has come.
#[derive(Debug, Default)]
struct Gate {
    done: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Gate {
    /// Waits until `order` structure orders are carried out. Errors: they never will be.
    fn wait(&self, order: u64) -> Result<()> {
        let mut done = self.done.lock();
        while done.ok_or(SessionError::Cancelled)? < order {
            self.changed.wait(&mut done);
        }
        Ok(())
    }

    fn set(&self, done: Option<u64>) {
        *self.done.lock() = done;
        self.changed.notify_all();
    }
}

/// Closes the gate when the structure thread ends, however it does.
struct CloseOnDrop(Arc<Gate>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

type Thread = JoinHandle<Result<Digests>>;

/// The threads and the way to them. Dropping it stops them before their next order.
#[derive(Debug)]
pub(super) struct Disk {
    structure: Option<mpsc::Sender<Job>>,
    files: Vec<mpsc::Sender<(u64, Job)>>,
    threads: Vec<Thread>,
    /// Structure orders given.
    given: u64,
    stopped: Arc<AtomicBool>,
    digests: Digests,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

impl Disk {
    /// Starts the threads. Must be called inside a tokio runtime.
    pub(super) fn start(
        root: &Root,
        hasher: Option<&Arc<dyn RecordHasher>>,
        owner: Option<(u32, u32)>,
    ) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(Gate { done: Mutex::new(Some(0)), changed: Condvar::new() });
        let (structure, orders) = mpsc::channel(JOBS_IN_FLIGHT);
        let writer = || Ok::<_, SessionError>(Writer::new(root.try_clone()?, hasher.cloned(), owner));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let (writers, first) = ((0..cpus.min(MAX_FILE_THREADS)).map(|_| writer()), writer()?);
        let writers = writers.collect::<Result<Vec<_>>>()?;
        let close = CloseOnDrop(gate.clone());
        let halt = stopped.clone();
        let mut threads =
            vec![tokio::task::spawn_blocking(move || make_structure(first, orders, &close, &halt))];
        let mut files = Vec::new();
        for writer in writers {
            let (sender, orders) = mpsc::channel(JOBS_IN_FLIGHT);
            files.push(sender);
            let (gate, halt) = (gate.clone(), stopped.clone());
            threads.push(tokio::task::spawn_blocking(move || write_files(writer, orders, &gate, &halt)));
        }
        Ok(Self { structure: Some(structure), files, threads, given: 0, stopped, digests: Vec::new() })
    }

    /// Gives an order. Errors: cancelled, if a thread has ended; [`Disk::finish`] then tells why.
    pub(super) async fn order(&mut self, job: Job) -> Result<()> {
        let sent = match (job.file(), &self.structure) {
            (Some(entry), _) if !self.files.is_empty() => {
                let thread = (entry / NEIGHBOURS) as usize % self.files.len();
                self.files[thread].send((self.given, job)).await.is_ok()
            }
            (None, Some(structure)) => {
                self.given += 1;
                structure.send(job).await.is_ok()
            }
            _ => false,
        };
        if sent { Ok(()) } else { Err(SessionError::Cancelled) }
    }

    /// Waits until all files are written; after this only structure may be ordered.
    pub(super) async fn files_done(&mut self) -> Result<()> {
        self.files.clear();
        // The first thread is the structure's.
        while self.threads.len() > 1
            && let Some(thread) = self.threads.pop()
        {
            let digests = join(thread).await?;
            self.digests.extend(digests);
        }
        Ok(())
    }

    /// Waits until all is done, or with `give_up` until every thread has stopped. Errors: what went wrong first.
    pub(super) async fn finish(mut self, give_up: bool) -> Result<Digests> {
        self.stopped.store(give_up, Ordering::Relaxed);
        self.structure = None;
        self.files.clear();
        let mut digests = std::mem::take(&mut self.digests);
        let mut failure = None;
        for thread in std::mem::take(&mut self.threads) {
            match join(thread).await {
                Ok(more) => digests.extend(more),
                // Cancelled is what the others say when one has failed.
                Err(err) if matches!(failure, None | Some(SessionError::Cancelled)) => failure = Some(err),
                Err(_) => {}
            }
        }
        failure.map_or(Ok(digests), Err)
    }
}

async fn join(thread: Thread) -> Result<Digests> {
    let broken = |panic| Err(SessionError::io("writing received files", std::io::Error::other(panic)));
    thread.await.unwrap_or_else(broken)
}

fn make_structure(
    mut writer: Writer,
    mut orders: mpsc::Receiver<Job>,
    close: &CloseOnDrop,
    stopped: &AtomicBool,
) -> Result<Digests> {
    let mut done = 0;
    while let Some(job) = orders.blocking_recv() {
        if stopped.load(Ordering::Relaxed) {
            return Err(SessionError::Cancelled);
        }
        writer.perform(job)?;
        done += 1;
        close.0.set(Some(done));
    }
    Ok(writer.into_digests())
}

fn write_files(
    mut writer: Writer,
    mut orders: mpsc::Receiver<(u64, Job)>,
    gate: &Gate,
    stopped: &AtomicBool,
) -> Result<Digests> {
    while let Some((after, job)) = orders.blocking_recv() {
        gate.wait(after)?;
        if stopped.load(Ordering::Relaxed) {
            return Err(SessionError::Cancelled);
        }
        writer.perform(job)?;
    }
    Ok(writer.into_digests())
}
