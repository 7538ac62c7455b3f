//! The times at which a vertex was worked on.

use prost_types::Timestamp;

/// Spans that are kept apart; older ones are only summed up.
const MAX_SPANS: usize = 32;

/// Seconds since 1970.
#[allow(clippy::cast_precision_loss, reason = "microseconds are enough for what is shown")]
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.seconds as f64 + f64::from(at.nanos) / 1e9
}

#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    past: f64,
    /// From, to; still going on without the latter.
    list: Vec<(f64, Option<f64>)>,
}

impl Spans {
    /// A span that began, or the end of one that is known.
    pub(super) fn set(&mut self, start: f64, end: Option<f64>) {
        if let Some(known) = self.list.iter_mut().find(|(from, _)| from.total_cmp(&start).is_eq()) {
            known.1 = end;
            return;
        }
        if let Some((_, open @ None)) = self.list.last_mut() {
            *open = Some(start);
        }
        self.list.push((start, end));
        if self.list.len() > MAX_SPANS {
            let (from, to) = self.list.remove(0);
            self.past += (to.unwrap_or(from) - from).max(0.0);
        }
    }

    /// These and those of another.
    pub(super) fn join(&mut self, other: &Self) {
        self.past += other.past;
        self.list.extend_from_slice(&other.list);
    }

    /// Seconds of work until `now`; what overlaps counts once.
    pub(super) fn total(&self, now: f64) -> f64 {
        let mut list: Vec<_> = self.list.iter().map(|(from, to)| (*from, to.unwrap_or(now))).collect();
        list.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut total, mut reached) = (self.past, f64::NEG_INFINITY);
        for (from, to) in list {
            total += (to - from.max(reached)).max(0.0);
            reached = reached.max(to);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_do_not_count_and_overlaps_count_once() {
        let mut spans = Spans::default();
        spans.set(1.0, None);
        spans.set(1.0, Some(2.0));
        spans.set(5.0, None);
        assert!((spans.total(6.5) - 2.5).abs() < 1e-9);
        let mut other = Spans::default();
        other.set(5.5, Some(7.0));
        spans.join(&other);
        assert!((spans.total(6.0) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn many_spans_keep_their_sum() {
        let mut spans = Spans::default();
        for i in 0..100 {
            spans.set(f64::from(i), Some(f64::from(i) + 0.5));
        }
        assert!((spans.total(0.0) - 50.0).abs() < 1e-9);
        assert_eq!(spans.list.len(), MAX_SPANS);
    }
}
