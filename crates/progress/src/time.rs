use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// Now, as the wire has it.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Time between two moments; zero if they are in the wrong order.
pub(crate) fn between(from: &Timestamp, to: &Timestamp) -> Duration {
    since_epoch(to).saturating_sub(since_epoch(from))
}

/// Time since 1970; zero before.
pub(crate) fn since_epoch(time: &Timestamp) -> Duration {
    let time = SystemTime::try_from(*time).unwrap_or(UNIX_EPOCH);
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
