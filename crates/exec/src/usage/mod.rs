//! What a step used, as its cgroup counts it, and what the machine did meanwhile, in the words in which upstream's
//! provenance tells it (`resourceUsage`, `sysUsage`). What the kernel does not count is left out.

mod cgroup;
mod machine;
mod meter;

use serde::{Deserialize, Serialize};

pub use machine::{MachineSample, MachineSampler};
pub(crate) use meter::Meter;

/// What one process and its children used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepUsage {
    /// In the order of time; the last is of the step's end.
    pub samples: Vec<Sample>,
    /// What all processors of the machine did meanwhile, in seconds.
    #[serde(rename = "sysCPUStat", default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<ProcessorTime>,
}

/// What had been used at one time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When.
    pub timestamp: String,
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_stat: Option<Cpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_stat: Option<Memory>,
    /// Disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_stat: Option<Io>,
    /// Processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_stat: Option<Pids>,
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident $(= $key:literal)?),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[serde($(rename = $key,)? default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<u64>,
            )+
            /// How long it was waited for.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub pressure: Option<Pressure>,
        }
    };
}

counters! {
    /// Time on processors.
    Cpu {
        /// In all.
        usage_nanos,
        /// In programs.
        user_nanos,
        /// In the kernel.
        system_nanos,
        /// Periods of a limit.
        nr_periods,
        /// Periods in which the limit was reached.
        nr_throttled,
        /// Time that the limit took.
        throttled_nanos,
    }
}

counters! {
    /// Memory in bytes, and events.
    Memory {
        /// Swapped out.
        swap_bytes,
        /// Of no file.
        anon,
        /// Cached files.
        file,
        /// Stacks in the kernel.
        kernel_stack,
        /// Page tables.
        page_tables,
        /// Buffers of sockets.
        sock,
        /// Of the kernel's vmalloc.
        vmalloc,
        /// Shared memory and tmpfs.
        shmem,
        /// Files that are mapped.
        file_mapped,
        /// Files to be written.
        file_dirty,
        /// Files that are being written.
        file_writeback,
        /// Structures of the kernel.
        slab,
        /// Pages looked at for reclaim.
        pgscan,
        /// Pages reclaimed.
        pgsteal,
        /// Page faults.
        pgfault,
        /// Page faults that had to read.
        pgmajfault,
        /// The most that was in use.
        peak,
        /// Times at the lower bound.
        low_events,
        /// Times at the upper bound.
        high_events,
        /// Times at the limit.
        max_events,
        /// Times that memory could not be had.
        oom_events,
        /// Processes killed for that.
        oom_kill_events,
    }
}

counters! {
    /// Transfers from and to disks.
    Io {
        /// Bytes read.
        read_bytes,
        /// Bytes written.
        write_bytes,
        /// Bytes discarded.
        discard_bytes,
        /// Reads.
        read_ios = "readIOs",
        /// Writes.
        write_ios = "writeIOs",
        /// Discards.
        discard_ios = "discardIOs",
    }
}

/// Processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pids {
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
}

/// How long something was waited for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// By some processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub some: Option<Waited>,
    /// By all that had work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Waited>,
}

/// Shares of the last seconds in percent, and microseconds in all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Waited {
    /// Of the last 10 seconds.
    pub avg10: f64,
    /// Of the last minute.
    pub avg60: f64,
    /// Of the last five minutes.
    pub avg300: f64,
    /// Microseconds in all.
    pub total: u64,
}

/// What processors did, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorTime {
    pub user: f64,
    pub nice: f64,
    pub system: f64,
    pub idle: f64,
    pub iowait: f64,
    pub irq: f64,
    pub softirq: f64,
    pub steal: f64,
    pub guest: f64,
    pub guest_nice: f64,
}

/// Now, as JSON has it.
fn now() -> String {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    rbuild_oci::format_time(seconds, since.subsec_nanos()).unwrap_or_default()
}

/// `/proc/pressure/*` and `*.pressure`.
fn pressure(text: &str) -> Option<Pressure> {
    let mut found = Pressure::default();
    for line in text.lines() {
        let (kind, values) = line.split_once(' ')?;
        let value = |name: &str| {
            values.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok())
        };
        let total = values.split(' ').find_map(|pair| pair.strip_prefix("total=")?.parse().ok())?;
        let waited =
            Waited { avg10: value("avg10")?, avg60: value("avg60")?, avg300: value("avg300")?, total };
        match kind {
            "some" => found.some = Some(waited),
            "full" => found.full = Some(waited),
            _ => {}
        }
    }
    (found != Pressure::default()).then_some(found)
}

/// The value of `name` in lines of names and values.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix([' ', ':'])?.split_ascii_whitespace().next()?.parse().ok()
    })
}
