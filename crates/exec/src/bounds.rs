//! [`StepLimits`]: what no step may exceed, whatever its definition asks for.

use crate::cgroup::check_limits;
use crate::error::ExecError;
use crate::spec::Resources;

/// The kernel's usual period of a processor limit, in microseconds.
const PERIOD: u64 = 100_000;

/// The daemon's limits for each step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepLimits {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Thousandths of processors.
    pub milli_cpus: Option<u64>,
    /// Memory in swap counts as memory. Found out by [`StepLimits::probe`].
    no_swap: bool,
}

impl StepLimits {
    /// No limits but these.
    pub fn new(memory: Option<i64>, milli_cpus: Option<u64>) -> Self {
        Self { memory, milli_cpus, no_swap: false }
    }

    /// Finds out whether this machine can hold steps to the limits. Blocking.
    ///
    /// Errors: it cannot; says what it lacks.
    pub fn probe(self) -> Result<Self, ExecError> {
        if self == Self::default() {
            return Ok(self);
        }
        let strict = Self { no_swap: self.memory.is_some(), ..self };
        // Where the kernel does not count swap, memory alone is limited.
        if strict.no_swap && check_limits(&strict.bound(Resources::default())).is_ok() {
            return Ok(strict);
        }
        let loose = Self { no_swap: false, ..strict };
        check_limits(&loose.bound(Resources::default()))?;
        Ok(loose)
    }

    /// What a step gets that asks for `asked`.
    pub fn bound(&self, mut asked: Resources) -> Resources {
        if let Some(memory) = self.memory {
            asked.memory = within(asked.memory, memory);
            if self.no_swap {
                // Counts memory, too, so it is never less.
                asked.memory_swap = within(asked.memory_swap, memory).max(asked.memory);
            }
        }
        if let Some(milli_cpus) = self.milli_cpus {
            let period = if asked.cpu_period == 0 { PERIOD } else { asked.cpu_period };
            let most = period.saturating_mul(milli_cpus) / 1000;
            asked.cpu_quota = within(asked.cpu_quota, i64::try_from(most).unwrap_or(i64::MAX));
            asked.cpu_period = period;
        }
        asked
    }
}

/// The lesser of both, where nothing, or less, means no limit.
fn within(asked: i64, most: i64) -> i64 {
    if asked <= 0 { most } else { asked.min(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_get_what_they_ask_for_up_to_the_limit() {
        let limits = StepLimits { no_swap: true, ..StepLimits::new(Some(1000), Some(1500)) };
        let asked = |memory, memory_swap, cpu_quota, cpu_period| Resources {
            memory,
            memory_swap,
            cpu_quota,
            cpu_period,
            ..Resources::default()
        };
        for (asks, gets) in [
            (asked(0, 0, 0, 0), asked(1000, 1000, 150_000, 100_000)),
            (asked(-1, -1, -1, 0), asked(1000, 1000, 150_000, 100_000)),
            (asked(500, 0, 50_000, 0), asked(500, 1000, 50_000, 100_000)),
            (asked(5000, 9000, 500_000, 200_000), asked(1000, 1000, 300_000, 200_000)),
        ] {
            assert_eq!(limits.bound(asks), gets);
        }
        assert_eq!(StepLimits::default().bound(asked(0, 0, 0, 0)), Resources::default());
    }
}
