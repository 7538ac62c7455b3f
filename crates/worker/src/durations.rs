//! How long steps took when they ran last: what the order of waiting steps is made of.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rbuild_digest::Digest;

/// Steps remembered; beyond, all are forgotten: what runs often is soon known again.
const LIMIT: usize = 20_000;
/// Value of a row: first 16 bytes of the step's digest, then milliseconds.
const ROW: usize = 16 + 4;
/// Where the store keeps them.
const SPACE: &str = "durations";
const KEY: &[u8] = b"steps 1";
/// What is assumed of a step that never ran here: something, so that the longer way counts.
const UNKNOWN_MS: u64 = 1;

type Name = [u8; 16];

/// Durations by name and platform of a step, as its definition changes with everything beneath it.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    known: Mutex<HashMap<Name, u32>>,
    /// Something was noted since it was saved.
    changed: AtomicBool,
}

/// What a step is found by.
fn name(step: &str) -> Name {
    let mut short = [0; 16];
    short.copy_from_slice(&Digest::of(step).as_bytes()[..16]);
    short
}

impl Durations {
    /// Those that the store keeps. What cannot be read is forgotten: it costs an order and nothing else.
    pub(crate) fn load(store: &rbuild_store::Store) -> Self {
        let bytes = store.kv_get(SPACE, KEY).unwrap_or_else(|error| {
            tracing::debug!(%error, "durations of steps are unreadable");
            None
        });
        let rows = bytes.unwrap_or_default();
        let row =
            |row: &[u8]| Some((row[..16].try_into().ok()?, u32::from_le_bytes(row[16..].try_into().ok()?)));
        let known = Mutex::new(rows.chunks_exact(ROW).filter_map(row).collect());
        Self { known, changed: AtomicBool::new(false) }
    }

    /// Gives them to the store.
    pub(crate) async fn save(&self, store: &rbuild_store::Store) -> Result<(), rbuild_store::StoreError> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mut rows = Vec::new();
        for (name, ms) in self.known.lock().iter() {
            rows.extend_from_slice(name);
            rows.extend_from_slice(&ms.to_le_bytes());
        }
        store.kv_put(SPACE, KEY, &rows).await
    }

    /// A step ran.
    pub(crate) fn note(&self, step: &str, took: std::time::Duration) {
        self.changed.store(true, Ordering::Relaxed);
        let mut known = self.known.lock();
        if known.len() >= LIMIT {
            known.clear();
        }
        known.insert(name(step), u32::try_from(took.as_millis()).unwrap_or(u32::MAX));
    }

    /// What the step took when it ran last.
    pub(crate) fn of(&self, step: &str) -> u64 {
        let known = self.known.lock();
        if known.is_empty() {
            return UNKNOWN_MS;
        }
        known.get(&name(step)).map_or(UNKNOWN_MS, |ms| u64::from(*ms).max(UNKNOWN_MS))
    }
}

/// Milliseconds from the begin of each vertex to the end of the build, from the milliseconds of each and their inputs.
/// Inputs come before their users.
pub(crate) fn ways(own_ms: &[u64], inputs: impl Fn(usize) -> Vec<usize>) -> Vec<u64> {
    // First the longest way from the end of each vertex, filled in from the users down.
    let mut after = vec![0; own_ms.len()];
    for vertex in (0..own_ms.len()).rev() {
        let way = after[vertex] + own_ms[vertex];
        for input in inputs(vertex) {
            after[input] = way.max(after[input]);
        }
    }
    after.iter().zip(own_ms).map(|(after, own)| after + own).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_way_to_the_end_is_the_longest_one() {
        // 0 → 1 → 3, 0 → 2 → 3; 4 stands alone.
        let inputs = [vec![], vec![0], vec![0], vec![1, 2], vec![]];
        let ways = ways(&[1, 10, 200, 3, 50], |vertex| inputs[vertex].clone());
        assert_eq!(ways, [204, 13, 203, 3, 50]);
    }

    #[tokio::test]
    async fn durations_outlive_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let open = || rbuild_store::Store::open(dir.path(), rbuild_store::StoreOptions::default()).unwrap();
        let store = open();
        let durations = Durations::load(&store);
        durations.note("RUN make", Duration::from_millis(1234));
        durations.save(&store).await.unwrap();
        drop(store);
        let durations = Durations::load(&open());
        assert_eq!((durations.of("RUN make"), durations.of("RUN other")), (1234, UNKNOWN_MS));
    }
}
