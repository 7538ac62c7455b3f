use std::path::PathBuf;
use std::time::Duration;

use super::{Sample, StepUsage, cgroup, machine};

/// Between the first samples. Upstream's.
const INTERVAL: Duration = Duration::from_secs(2);
/// After so many samples the time between them is doubled, so that their number grows with the logarithm of time.
const STRIDE: usize = 10;

/// Watches one step's cgroup.
#[derive(Debug)]
pub(crate) struct Meter {
    dirs: Vec<PathBuf>,
    before: Option<super::ProcessorTime>,
    samples: Vec<Sample>,
}

impl Meter {
    /// Counts from now on. Blocking.
    pub(crate) fn start(dirs: Vec<PathBuf>) -> Self {
        Self { dirs, before: machine::processors(), samples: Vec::new() }
    }

    /// Takes samples for as long as it is polled.
    pub(crate) async fn watch(&mut self) -> std::convert::Infallible {
        loop {
            let doubled = u32::try_from(self.samples.len() / STRIDE).unwrap_or(u32::MAX).min(16);
            tokio::time::sleep(INTERVAL * 2u32.pow(doubled)).await;
            let dirs = self.dirs.clone();
            match crate::native::blocking(move || cgroup::sample(&dirs)).await {
                Ok(sample) => self.samples.push(sample),
                Err(error) => tracing::debug!(%error, "a sample is left out"),
            }
        }
    }

    /// The last sample, while the cgroup is still there. Blocking.
    pub(crate) fn finish(mut self) -> StepUsage {
        self.samples.push(cgroup::sample(&self.dirs));
        let machine = self.before.zip(machine::processors()).map(|(before, after)| after.since(&before));
        StepUsage { samples: self.samples, machine }
    }
}
