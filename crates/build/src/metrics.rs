use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use rbuild_frontend::{BuildError, ErrorCode};
use rbuild_progress::Tally;

use crate::request::BuildOutcome;

/// What builds did since the daemon started. Those that upstream has are named as there; ours begin with `rbuild_`.
#[derive(Debug)]
pub struct Metrics {
    builds: Family<StatusLabel, Counter>,
    durations: Family<StatusLabel, Histogram>,
    steps: Family<KindLabel, Counter>,
    running: Gauge,
    sessions: Gauge,
    working: Gauge,
    collected_records: Counter,
    collected_bytes: Counter<u64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: BuildStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum BuildStatus {
    Success,
    Failure,
    Canceled,
}

impl EncodeLabelValue for BuildStatus {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Canceled => "canceled",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// From a tenth of a second, doubling, to almost two hours.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            builds: Family::default(),
            durations: Family::new_with_constructor(seconds),
            steps: Family::default(),
            running: Gauge::default(),
            sessions: Gauge::default(),
            working: Gauge::default(),
            collected_records: Counter::default(),
            collected_bytes: Counter::default(),
        }
    }
}

impl Metrics {
    /// Names everything in a registry that is about to be shown.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("buildkit_builds", "Builds that ended", self.builds.clone());
        registry.register("buildkit_builds_steps", "Steps of builds that ended", self.steps.clone());
        registry.register_with_unit(
            "buildkit_build_duration",
            "How long builds took",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register("rbuild_builds_running", "Builds that run", self.running.clone());
        registry.register("rbuild_sessions", "Clients that are connected for a build", self.sessions.clone());
        registry.register("rbuild_steps_working", "Steps that run or change files now", self.working.clone());
        registry.register(
            "rbuild_collected_records",
            "Records that the garbage collector removed",
            self.collected_records.clone(),
        );
        registry.register_with_unit(
            "rbuild_collected",
            "What the garbage collector removed",
            Unit::Bytes,
            self.collected_bytes.clone(),
        );
    }

    pub(crate) fn refresh(&self, builds: usize, sessions: usize, working: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.running.set(number(builds));
        self.sessions.set(number(sessions));
        self.working.set(number(working));
    }

    pub(crate) fn ended(&self, outcome: &Result<BuildOutcome, BuildError>, tally: Tally, took: Duration) {
        let status = match outcome {
            Ok(_) => BuildStatus::Success,
            Err(error) if error.code == ErrorCode::Cancelled => BuildStatus::Canceled,
            Err(_) => BuildStatus::Failure,
        };
        self.builds.get_or_create(&StatusLabel { status }).inc();
        self.durations.get_or_create(&StatusLabel { status }).observe(took.as_secs_f64());
        for (kind, count) in [
            ("total", tally.total),
            ("completed", tally.completed),
            ("cached", tally.cached),
            ("warnings", tally.warnings),
        ] {
            self.steps.get_or_create(&KindLabel { kind }).inc_by(count.into());
        }
    }

    pub(crate) fn collected(&self, records: usize, bytes: u64) {
        self.collected_records.inc_by(records as u64);
        self.collected_bytes.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_counted_by_how_they_ended() {
        let metrics = Metrics::default();
        let tally = Tally { total: 5, completed: 4, cached: 3, warnings: 0 };
        metrics.ended(&Ok(BuildOutcome::default()), tally, Duration::from_millis(150));
        let cancelled = BuildError::new(ErrorCode::Cancelled, "canceled");
        metrics.ended(&Err(cancelled), tally, Duration::from_secs(2));
        metrics.collected(2, 1 << 20);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "buildkit_builds_total{status=\"success\"} 1",
            "buildkit_builds_total{status=\"canceled\"} 1",
            "buildkit_builds_steps_total{kind=\"cached\"} 6",
            "buildkit_build_duration_seconds_count{status=\"success\"} 1",
            "rbuild_collected_bytes_total 1048576",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
