use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Result, StoreError};
use crate::store::{Core, Garbage};

/// The store's own thread: brings what was written to disk now and then, and removes what nobody needs.
///
/// It exists because `Drop` must not block: a discarded tree is queued here. The queue is not bounded for the same
/// reason; it holds names, and never more of them than there are directories.
#[derive(Debug)]
pub(crate) struct Janitor {
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Job {
    /// Their rows are gone.
    Remove(Garbage),
    /// There never were rows.
    Discard(Garbage),
    /// Answer when everything before is done.
    Barrier(tokio::sync::oneshot::Sender<()>),
}

impl Janitor {
    pub(crate) fn start(core: Arc<Core>, interval: Duration) -> Result<Self> {
        let (queue, jobs) = channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || work(&core, &jobs, interval))
            .map_err(|error| StoreError::Worker { detail: format!("the store's thread: {error}") })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Removes what rows named that are gone now.
    pub(crate) fn remove(&self, garbage: Garbage) {
        if !garbage.is_empty() {
            self.send(Job::Remove(garbage));
        }
    }

    /// Removes what no row ever named.
    pub(crate) fn discard(&self, garbage: Garbage) {
        if !garbage.is_empty() {
            self.send(Job::Discard(garbage));
        }
    }

    /// Waits until what was queued before is done.
    pub(crate) async fn settle(&self) {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.send(Job::Barrier(done));
        if wait.await.is_err() {
            tracing::debug!("the store's thread ended");
        }
    }

    fn send(&self, job: Job) {
        if let Some(queue) = &self.queue
            && queue.send(job).is_err()
        {
            tracing::error!("the store's thread is gone; leftovers are removed at the next start");
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Ends the thread after the queued jobs: removals of what was just discarded, no sync.
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

fn work(core: &Core, jobs: &Receiver<Job>, interval: Duration) {
    let mut due = Instant::now() + interval;
    // What could not be removed yet (a full disk): its rows are gone, so nobody else knows of it.
    let mut left = Garbage::default();
    loop {
        let result = match jobs.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Job::Remove(garbage)) => {
                left.add(garbage);
                remove_all(core, jobs, &mut left)
            }
            Ok(Job::Discard(garbage)) => discard(core, &garbage),
            Ok(Job::Barrier(done)) => {
                if done.send(()).is_err() {
                    tracing::trace!("nobody waits for the barrier any more");
                }
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // Looked at after every job, so that a stream of them does not put off the sync.
        let result = if Instant::now() >= due {
            due = Instant::now() + interval;
            result.and(core.checkpoint()).and_then(|()| remove(core, &mut left))
        } else {
            result
        };
        if let Err(error) = result {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the store's upkeep failed, it is tried again"
            );
        }
    }
}

/// Removes this and whatever else is queued for removal: each removal begins with a sync.
fn remove_all(core: &Core, jobs: &Receiver<Job>, garbage: &mut Garbage) -> Result<()> {
    let mut barriers = Vec::new();
    let mut result = Ok(());
    while let Ok(job) = jobs.try_recv() {
        match job {
            Job::Remove(more) => garbage.add(more),
            Job::Discard(more) => result = result.and(discard(core, &more)),
            Job::Barrier(done) => {
                barriers.push(done);
                break;
            }
        }
    }
    let result = result.and(remove(core, garbage));
    for done in barriers {
        if done.send(()).is_err() {
            tracing::trace!("nobody waits for the barrier any more");
        }
    }
    result
}

/// Removes files; what fails stays for another time.
fn remove(core: &Core, garbage: &mut Garbage) -> Result<()> {
    if garbage.is_empty() {
        return Ok(());
    }
    core.remove(garbage)?;
    *garbage = Garbage::default();
    Ok(())
}

fn discard(core: &Core, garbage: &Garbage) -> Result<()> {
    for id in &garbage.snapshots {
        core.snaps.remove(id)?;
    }
    Ok(())
}
