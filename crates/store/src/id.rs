use std::fmt;
use std::str::FromStr;

use rbuild_digest::{is_safe_id, random_id};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Characters of an id; upstream's ids are as long.
const LENGTH: usize = 25;

/// The name of a ref: 25 random characters, as upstream's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefId([u8; LENGTH]);

impl RefId {
    /// An id that was never used before.
    pub(crate) fn fresh() -> Self {
        Self::parse(&random_id()).expect("random ids are 25 safe characters")
    }

    /// Parses an id.
    pub fn parse(text: &str) -> Option<Self> {
        is_safe_id(text).then(|| text.as_bytes().try_into().ok().map(Self)).flatten()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(bytes).ok()?)
    }
}

impl fmt::Display for RefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RefId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| format!("invalid ref id `{text}`"))
    }
}

impl Serialize for RefId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RefId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
