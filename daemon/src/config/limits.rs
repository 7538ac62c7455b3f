//! Limits that hold for each step.

use rbuild_exec::StepLimits;

use super::ConfigError;
use super::size::Size;

/// What steps can begin with at all.
const LEAST_MEMORY: i64 = 4 << 20;
/// The kernel's least share of a processor, in thousandths.
const LEAST_CPUS: f64 = 10.0;
/// More processors than any machine has.
const MOST_CPUS: f64 = 1_000_000.0;

/// `step-memory` and `step-cpus`. A percentage is one of the machine's memory.
pub(super) fn parse(memory: Option<Size>, cpus: Option<f64>) -> Result<StepLimits, ConfigError> {
    let wrong = |setting: &str, message: String| ConfigError::Invalid { setting: setting.into(), message };
    let memory = match memory {
        None => None,
        Some(size) => {
            let machine =
                machine_memory().map_err(|error| wrong("step-memory", format!("/proc/meminfo: {error}")))?;
            let bytes = size.bytes(machine);
            if bytes < LEAST_MEMORY {
                let message = format!("{bytes} bytes: no step can begin with less than {LEAST_MEMORY}");
                return Err(wrong("step-memory", message));
            }
            Some(bytes)
        }
    };
    let milli_cpus = match cpus.map(|cpus| (cpus * 1000.0).round()) {
        None => None,
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was just looked at")]
        Some(milli) if (LEAST_CPUS..=MOST_CPUS).contains(&milli) => Some(milli as u64),
        Some(_) => {
            return Err(wrong("step-cpus", "expected a number of processors from 0.01 to 1000".into()));
        }
    };
    Ok(StepLimits::new(memory, milli_cpus))
}

/// Bytes of memory that the machine has.
fn machine_memory() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| std::io::Error::other("it has no MemTotal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_sizes_and_parts_of_processors() {
        let limits = parse(Some(Size::parse("64MiB").unwrap()), Some(0.5)).unwrap();
        assert_eq!((limits.memory, limits.milli_cpus), (Some(64 << 20), Some(500)));
        let half = parse(Some(Size::Percent(50.0)), None).unwrap().memory.unwrap();
        let all = i64::try_from(machine_memory().unwrap()).unwrap();
        assert!((half - all / 2).abs() <= 1, "{half} of {all}");
        for (memory, cpus, setting) in [
            (Some(Size::Bytes(1000)), None, "step-memory"),
            (None, Some(0.0), "step-cpus"),
            (None, Some(f64::NAN), "step-cpus"),
            (None, Some(1e9), "step-cpus"),
        ] {
            let error = parse(memory, cpus).unwrap_err().to_string();
            assert!(error.contains(setting), "{error}");
        }
    }
}
