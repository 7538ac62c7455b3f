//! Collecting in the background, and what is said when the disk is full all the same.

use std::sync::Arc;
use std::time::Duration;

use rbuild_frontend::{BuildError, Fault};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::builder::Builder;

/// How often garbage is looked for when nothing happens.
const EVERY: Duration = Duration::from_secs(60);
/// How long after a build: its client may ask for the result at once, and the next build often follows. Source:
/// upstream collects a second after each build.
const AFTER_BUILD: Duration = Duration::from_secs(1);
/// Time between two collections after builds: each looks at every record.
const PAUSE: Duration = Duration::from_secs(10);

/// The garbage collector's task; ends when dropped.
#[derive(Debug)]
pub struct GcTask(JoinHandle<()>);

impl Drop for GcTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Builder {
    /// Starts collecting garbage in the background, after builds and now and then: what ended builds left in memory,
    /// and the cache if the builder was opened with policies.
    pub fn start_gc(self: &Arc<Self>) -> GcTask {
        let builder = self.clone();
        let work = async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // The first tick is immediate: right after the start there is nothing new to collect.
            ticks.tick().await;
            let mut rested = Instant::now();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = builder.build_ended.notified() => {
                        tokio::time::sleep_until(rested.max(Instant::now() + AFTER_BUILD)).await;
                    }
                }
                builder.collect().await;
                rested = Instant::now() + PAUSE;
            }
        };
        // Owned by the guard, which aborts it.
        let idle = crate::idle::give_back_memory(self.builds.clone());
        GcTask(tokio::spawn(async move {
            tokio::join!(work, idle);
        }))
    }

    async fn collect(&self) {
        self.history().collect().await;
        self.worker.save().await;
        let memory = self.memory.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || memory.collect()).await {
            tracing::warn!(%error, "forgetting earlier builds");
        }
        let Some(policies) = &self.gc else { return };
        match self.store().gc(policies).await {
            Ok(pruned) => {
                self.metrics.collected(pruned.records.len(), pruned.bytes);
                tracing::debug!(records = pruned.records.len(), bytes = pruned.bytes, "garbage collected");
            }
            Err(error) => tracing::warn!(error = %error, "collecting garbage"),
        }
    }

    /// Adds to an error who holds the space, if it is about a full disk.
    pub(crate) async fn with_holders(&self, error: BuildError) -> BuildError {
        let is_full = match error.known_fault() {
            Some(Fault::DiskFull) => true,
            // The process saw the full disk, we see its exit code.
            Some(Fault::StepFailed) => self.store().is_disk_full().unwrap_or_else(|error| {
                tracing::debug!(%error, "how full the disk is");
                false
            }),
            _ => false,
        };
        if !is_full {
            return error;
        }
        match self.store().space().await {
            Ok(space) => error.hint(space.to_string()),
            Err(unknown) => {
                tracing::debug!(error = %unknown, "who holds the space");
                error
            }
        }
    }
}
