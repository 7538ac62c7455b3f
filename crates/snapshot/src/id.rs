use std::fmt;

use rbuild_digest::{is_safe_id, random_id};
use serde::{Deserialize, Serialize};

use crate::{Result, SnapshotError};

/// Name of a snapshot: safe as a file name, never derived from anything a user wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    /// A fresh one, not guessable.
    pub fn random() -> Self {
        Self(random_id())
    }

    /// Checks that `text` is safe to use as a name.
    pub fn parse(text: &str) -> Result<Self> {
        if is_safe_id(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SnapshotError::InvalidId { id: text.chars().take(80).collect() })
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = SnapshotError;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}
