use std::time::SystemTime;

use prost_types::Timestamp;

/// Now, as the wire has it.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
