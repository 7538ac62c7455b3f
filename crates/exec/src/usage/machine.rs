use serde::{Deserialize, Serialize};

use super::{Pressure, ProcessorTime, field, now, pressure};

/// Clock ticks of a second in `/proc/stat`, the same everywhere for programs.
const TICKS: f64 = 100.0;
/// After so many samples every second one is forgotten, and the time between them doubled.
const MAX_SAMPLES: usize = 20;
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);

/// What the whole machine was doing at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSample {
    /// When.
    pub timestamp: String,
    /// Since the machine's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_stat: Option<ProcessorTime>,
    /// Since the machine's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proc_stat: Option<Processes>,
    /// Now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stat: Option<MachineMemory>,
    /// Of processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pressure: Option<Pressure>,
    /// Of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pressure: Option<Pressure>,
    /// Of disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_pressure: Option<Pressure>,
}

/// Counts of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Processes {
    pub context_switches: u64,
    pub process_created: u64,
    pub processes_running: u64,
}

/// Lines of `/proc/meminfo`, in its unit (1,024 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineMemory {
    pub total: u64,
    pub free: u64,
    pub available: u64,
    pub buffers: u64,
    pub cached: u64,
    pub active: u64,
    pub inactive: u64,
    pub swap: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub slab: u64,
}

impl ProcessorTime {
    /// What was done since `before`, to the hundredth of a second in which it is counted.
    pub(super) fn since(&self, before: &Self) -> Self {
        let less = |now: f64, then: f64| ((now - then) * TICKS).round() / TICKS;
        Self {
            user: less(self.user, before.user),
            nice: less(self.nice, before.nice),
            system: less(self.system, before.system),
            idle: less(self.idle, before.idle),
            iowait: less(self.iowait, before.iowait),
            irq: less(self.irq, before.irq),
            softirq: less(self.softirq, before.softirq),
            steal: less(self.steal, before.steal),
            guest: less(self.guest, before.guest),
            guest_nice: less(self.guest_nice, before.guest_nice),
        }
    }
}

/// What the processors have done. Blocking.
pub(super) fn processors() -> Option<ProcessorTime> {
    processors_of(&std::fs::read_to_string("/proc/stat").ok()?)
}

fn processors_of(stat: &str) -> Option<ProcessorTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut times =
        line.split_ascii_whitespace().map(|ticks| ticks.parse::<f64>().map(|ticks| ticks / TICKS));
    let mut next = || times.next()?.ok();
    Some(ProcessorTime {
        user: next()?,
        nice: next()?,
        system: next()?,
        idle: next()?,
        iowait: next()?,
        irq: next()?,
        softirq: next()?,
        steal: next()?,
        guest: next()?,
        guest_nice: next()?,
    })
}

fn processes_of(stat: &str) -> Option<Processes> {
    Some(Processes {
        context_switches: field(stat, "ctxt")?,
        process_created: field(stat, "processes")?,
        processes_running: field(stat, "procs_running")?,
    })
}

fn memory_of(info: &str) -> Option<MachineMemory> {
    Some(MachineMemory {
        total: field(info, "MemTotal")?,
        free: field(info, "MemFree")?,
        available: field(info, "MemAvailable")?,
        buffers: field(info, "Buffers")?,
        cached: field(info, "Cached")?,
        active: field(info, "Active")?,
        inactive: field(info, "Inactive")?,
        swap: field(info, "SwapTotal")?.saturating_sub(field(info, "SwapFree")?),
        dirty: field(info, "Dirty")?,
        writeback: field(info, "Writeback")?,
        slab: field(info, "Slab")?,
    })
}

/// Blocking.
fn sample() -> MachineSample {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/stat");
    MachineSample {
        timestamp: now(),
        cpu_stat: processors_of(&stat),
        proc_stat: processes_of(&stat),
        memory_stat: memory_of(&read("/proc/meminfo")),
        cpu_pressure: pressure(&read("/proc/pressure/cpu")),
        memory_pressure: pressure(&read("/proc/pressure/memory")),
        io_pressure: pressure(&read("/proc/pressure/io")),
    }
}

/// Looks at the machine while something goes on: every two seconds, later more rarely. Of long times it keeps a bounded
/// number of samples.
#[derive(Debug, Default)]
pub struct MachineSampler {
    samples: parking_lot::Mutex<Vec<MachineSample>>,
}

impl MachineSampler {
    /// Takes samples for as long as it is polled.
    pub async fn watch(&self) -> std::convert::Infallible {
        let mut interval = INTERVAL;
        loop {
            tokio::time::sleep(interval).await;
            match crate::native::blocking(sample).await {
                Ok(sample) => interval = self.keep(sample, interval),
                Err(error) => tracing::debug!(%error, "a sample is left out"),
            }
        }
    }

    fn keep(&self, sample: MachineSample, interval: std::time::Duration) -> std::time::Duration {
        let mut samples = self.samples.lock();
        samples.push(sample);
        if samples.len() < MAX_SAMPLES {
            return interval;
        }
        let mut number = 0;
        samples.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        interval.saturating_mul(2)
    }

    /// Those that were taken so far.
    pub fn samples(&self) -> Vec<MachineSample> {
        self.samples.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "cpu  100 2 300 4000 5 0 6 7 0 0\ncpu0 1 1 1 1 1 0 1 1 0 0\nctxt 12\nprocesses 34\nprocs_running 5\n";
        let now = processors_of(stat).unwrap();
        assert_eq!((now.user, now.idle, now.steal), (1.0, 40.0, 0.07));
        let before = processors_of("cpu  90 2 299 3000 5 0 6 7 0 0\n").unwrap();
        let since = now.since(&before);
        assert_eq!((since.user, since.system, since.idle, since.nice), (0.1, 0.01, 10.0, 0.0));
        let processes = processes_of(stat).unwrap();
        assert_eq!((processes.context_switches, processes.processes_running), (12, 5));
        assert_eq!(memory_of("MemTotal: 1 kB\n"), None);
        let here = sample();
        assert!(here.memory_stat.is_some_and(|memory| memory.total > memory.free));
        assert!(here.cpu_stat.is_some() && here.proc_stat.is_some());
    }

    #[test]
    fn a_long_watch_keeps_few_samples() {
        let sampler = MachineSampler::default();
        let mut interval = INTERVAL;
        for _ in 0..1000 {
            interval = sampler.keep(sample(), interval);
        }
        assert!(sampler.samples().len() < MAX_SAMPLES);
        assert!(interval > INTERVAL);
    }
}
