//! The counters of a cgroup. Version 1 counts in other files and less; what it has is told in the words of version 2.

use std::path::{Path, PathBuf};

use super::{Cpu, Io, Memory, Pids, Sample, field, now, pressure};

/// Older kernels of version 1 count in clock ticks, which are 100 in a second for programs everywhere.
const TICK_NANOS: u64 = 10_000_000;

/// Reads all counters of a cgroup, which may have a directory per controller.
pub(super) fn sample(dirs: &[PathBuf]) -> Sample {
    let files = Files(dirs);
    let (cpu, memory, io) = match crate::cgroup::is_unified() {
        true => (cpu_v2(&files), memory_v2(&files), io_v2(&files)),
        false => (cpu_v1(&files), memory_v1(&files), io_v1(&files)),
    };
    Sample {
        timestamp: now(),
        cpu_stat: cpu.filter(|cpu| *cpu != Cpu::default()),
        memory_stat: memory.filter(|memory| *memory != Memory::default()),
        io_stat: io.filter(|io| *io != Io::default()),
        pids_stat: Some(Pids { current: files.number("pids.current") }),
    }
}

struct Files<'a>(&'a [PathBuf]);

impl Files<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let read = |dir: &PathBuf| std::fs::read_to_string(Path::join(dir, name)).ok();
        self.0.iter().find_map(read)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }
}

fn cpu_v2(files: &Files<'_>) -> Option<Cpu> {
    let stat = files.text("cpu.stat")?;
    let nanos = |name: &str| field(&stat, name).map(|micros| micros * 1000);
    Some(Cpu {
        usage_nanos: nanos("usage_usec"),
        user_nanos: nanos("user_usec"),
        system_nanos: nanos("system_usec"),
        nr_periods: field(&stat, "nr_periods"),
        nr_throttled: field(&stat, "nr_throttled"),
        throttled_nanos: nanos("throttled_usec"),
        pressure: files.text("cpu.pressure").and_then(|text| pressure(&text)),
    })
}

fn cpu_v1(files: &Files<'_>) -> Option<Cpu> {
    let ticks = files.text("cpuacct.stat").unwrap_or_default();
    let limit = files.text("cpu.stat").unwrap_or_default();
    let nanos = |name: &str| field(&ticks, name).map(|ticks| ticks * TICK_NANOS);
    Some(Cpu {
        usage_nanos: files.number("cpuacct.usage"),
        user_nanos: files.number("cpuacct.usage_user").or_else(|| nanos("user")),
        system_nanos: files.number("cpuacct.usage_sys").or_else(|| nanos("system")),
        nr_periods: field(&limit, "nr_periods"),
        nr_throttled: field(&limit, "nr_throttled"),
        throttled_nanos: field(&limit, "throttled_time"),
        pressure: None,
    })
}

fn memory_v2(files: &Files<'_>) -> Option<Memory> {
    let stat = files.text("memory.stat")?;
    let events = files.text("memory.events").unwrap_or_default();
    let of = |name| field(&stat, name);
    Some(Memory {
        swap_bytes: files.number("memory.swap.current"),
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        page_tables: of("pagetables"),
        sock: of("sock"),
        vmalloc: of("vmalloc"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        slab: of("slab"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        peak: files.number("memory.peak"),
        low_events: field(&events, "low"),
        high_events: field(&events, "high"),
        max_events: field(&events, "max"),
        oom_events: field(&events, "oom"),
        oom_kill_events: field(&events, "oom_kill"),
        pressure: files.text("memory.pressure").and_then(|text| pressure(&text)),
    })
}

fn memory_v1(files: &Files<'_>) -> Option<Memory> {
    let stat = files.text("memory.stat")?;
    let of = |name| field(&stat, name);
    Some(Memory {
        swap_bytes: of("total_swap"),
        anon: of("total_rss"),
        file: of("total_cache"),
        shmem: of("total_shmem"),
        file_mapped: of("total_mapped_file"),
        file_dirty: of("total_dirty"),
        file_writeback: of("total_writeback"),
        pgfault: of("total_pgfault"),
        pgmajfault: of("total_pgmajfault"),
        peak: files.number("memory.max_usage_in_bytes"),
        max_events: files.number("memory.failcnt"),
        oom_kill_events: files.text("memory.oom_control").and_then(|text| field(&text, "oom_kill")),
        ..Memory::default()
    })
}

fn io_v2(files: &Files<'_>) -> Option<Io> {
    let stat = files.text("io.stat")?;
    let sum = |name: &str| {
        let values = stat.split_ascii_whitespace().filter_map(|pair| pair.strip_prefix(name));
        Some(values.filter_map(|value| value.strip_prefix('=')?.parse::<u64>().ok()).sum())
    };
    Some(Io {
        read_bytes: sum("rbytes"),
        write_bytes: sum("wbytes"),
        discard_bytes: sum("dbytes"),
        read_ios: sum("rios"),
        write_ios: sum("wios"),
        discard_ios: sum("dios"),
        pressure: files.text("io.pressure").and_then(|text| pressure(&text)),
    })
}

fn io_v1(files: &Files<'_>) -> Option<Io> {
    let bytes = files.text("blkio.throttle.io_service_bytes_recursive")?;
    let count = files.text("blkio.throttle.io_serviced_recursive").unwrap_or_default();
    Some(Io {
        read_bytes: Some(of_devices(&bytes, "Read")),
        write_bytes: Some(of_devices(&bytes, "Write")),
        discard_bytes: Some(of_devices(&bytes, "Discard")),
        read_ios: Some(of_devices(&count, "Read")),
        write_ios: Some(of_devices(&count, "Write")),
        discard_ios: Some(of_devices(&count, "Discard")),
        pressure: None,
    })
}

/// Sum of lines like `8:0 Read 4096`.
fn of_devices(text: &str, kind: &str) -> u64 {
    let of_line = |line: &str| {
        let mut words = line.split(' ').skip(1);
        words.next().filter(|word| *word == kind).and(words.next())?.parse::<u64>().ok()
    };
    text.lines().filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn counters_of_version_2_are_read() {
        let dir = dir(&[
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 1\nthrottled_usec 7\n",
            ),
            (
                "cpu.pressure",
                "some avg10=0.50 avg60=0.10 avg300=0.00 total=23582\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
            ),
            ("memory.stat", "anon 100\nfile 200\nfile_mapped 50\npagetables 3\nslab 9\nslab_reclaimable 4\n"),
            ("memory.peak", "777\n"),
            ("memory.events", "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n"),
            (
                "io.stat",
                "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
            ),
        ]);
        let dirs = [dir.path().to_path_buf()];
        let files = Files(&dirs);
        let cpu = cpu_v2(&files).unwrap();
        assert_eq!(
            (cpu.usage_nanos, cpu.throttled_nanos, cpu.nr_periods),
            (Some(30_000), Some(7_000), Some(4))
        );
        let pressure = cpu.pressure.unwrap();
        assert_eq!((pressure.some.unwrap().avg10, pressure.full.unwrap().total), (0.5, 5));
        let memory = memory_v2(&files).unwrap();
        assert_eq!((memory.file, memory.slab, memory.peak), (Some(200), Some(9), Some(777)));
        assert_eq!((memory.oom_events, memory.oom_kill_events, memory.sock), (Some(1), Some(1), None));
        let io = io_v2(&files).unwrap();
        assert_eq!((io.read_bytes, io.write_bytes, io.read_ios), (Some(15), Some(20), Some(2)));
    }

    #[test]
    fn counters_of_version_1_are_told_in_the_same_words() {
        let dir = dir(&[
            ("cpuacct.usage", "123456\n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            ("memory.stat", "rss 1\ntotal_rss 100\ntotal_cache 200\n"),
            ("memory.max_usage_in_bytes", "555\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 10\n8:0 Write 5\n8:16 Read 1\nTotal 16\n",
            ),
        ]);
        let dirs = [dir.path().to_path_buf()];
        let files = Files(&dirs);
        let cpu = cpu_v1(&files).unwrap();
        assert_eq!((cpu.usage_nanos, cpu.user_nanos), (Some(123_456), Some(20_000_000)));
        let memory = memory_v1(&files).unwrap();
        assert_eq!((memory.anon, memory.peak, memory.oom_kill_events), (Some(100), Some(555), Some(2)));
        let io = io_v1(&files).unwrap();
        assert_eq!((io.read_bytes, io.write_bytes), (Some(11), Some(5)));
        let json = serde_json::to_value(Sample { io_stat: Some(io), ..Sample::default() }).unwrap();
        assert_eq!(json["ioStat"]["readIOs"], 0);
        assert!(json.get("cpuStat").is_none());
    }
}
