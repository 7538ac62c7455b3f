//! The document of an exported cache, as upstream writes and reads it. See docs/formats/cache.md.

use std::collections::HashMap;

use rbuild_digest::Digest;
use rbuild_oci::Descriptor;
use serde::{Deserialize, Serialize};

use crate::mounts::MountEntry;

/// Key of the document in an image's config, for cache that travels in the image.
pub const INLINE_KEY: &str = "moby.buildkit.cache.v0";

/// What of an op and which of its outputs a record is about.
pub(crate) fn output_key(op: &Digest, output: usize) -> Digest {
    Digest::of(format!("{op}@{output}"))
}

/// The record that stands for files of this content, whoever made them.
pub(crate) fn content_key(content: &Digest) -> Digest {
    Digest::of(format!("{content}@-1"))
}

/// The whole document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Config {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<Layer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) records: Vec<Record>,
    /// Ours: cache mounts that travel along.
    #[serde(rename = "rbuildMounts", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounts: Vec<MountEntry>,
}

/// A layer over another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) blob: Digest,
    /// Index of the layer beneath; -1: none. Zero is left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) parent: i64,
    /// What is known of the blob, where no manifest says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<Annotations>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Annotations {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(rename = "diffID", default, skip_serializing_if = "Option::is_none")]
    pub(crate) diff_id: Option<Digest>,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) created_at: String,
}

/// A key: an op over other keys. It may have results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(rename = "layers", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) results: Vec<Outcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) chains: Vec<Chain>,
    pub(crate) digest: Digest,
    /// Per input the records that may stand there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inputs: Vec<Vec<Link>>,
}

/// A result: a layer and all beneath it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) layer: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) created_at: String,
}

/// A result as a list of layers, lowest first, whatever stands beneath them elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chain {
    pub(crate) layers: Vec<i64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) created_at: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Which part of the input; empty: all of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) selector: String,
    /// Index of a record.
    #[serde(default)]
    pub(crate) link: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A document with what its manifest says of the blobs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    pub(crate) config: Config,
    pub(crate) blobs: HashMap<Digest, Descriptor>,
}

impl Part {
    /// The document of an image: records only, about the image's own layers.
    ///
    /// `layers` are those of the image, with diff ids, lowest first.
    pub(crate) fn inline(document: &[u8], layers: &[Descriptor]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Document {
            Records(Vec<Record>),
            Whole(Config),
        }
        let records = match serde_json::from_slice(document)? {
            Document::Records(records) => records,
            Document::Whole(config) => config.records,
        };
        let parents = -1..;
        let layer =
            |(desc, parent): (&Descriptor, i64)| Layer { blob: desc.digest, parent, annotations: None };
        let config =
            Config { layers: layers.iter().zip(parents).map(layer).collect(), records, mounts: Vec::new() };
        Ok(Self { config, blobs: layers.iter().map(|desc| (desc.digest, desc.clone())).collect() })
    }
}

/// Milliseconds since 1970 of a time as Go writes it; `None` for nonsense and for Go's zero time.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let sane = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !sane {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days since 1970 in the Gregorian calendar, years counted from March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

/// As Go writes it.
pub(crate) fn time_text(unix_ms: i64) -> String {
    let nanos = u32::try_from(unix_ms.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
    rbuild_oci::format_time(unix_ms.div_euclid(1000), nanos).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_documents_are_read_and_written_back_the_same() {
        let d = |n: u8| format!("sha256:{}", format!("{n:02x}").repeat(32));
        let text = format!(
            r#"{{"layers":[{{"blob":"{}","parent":-1}},{{"blob":"{}"}}],"records":[{{"layers":[{{"layer":1,"createdAt":"2026-11-25T00:07:35.238534448Z"}}],"digest":"{}","inputs":[[{{"selector":"{}","link":1}},{{"link":1}}]]}},{{"digest":"{}"}}]}}"#,
            d(1),
            d(2),
            d(3),
            d(4),
            d(5)
        );
        let config: Config = serde_json::from_str(&text).unwrap();
        assert_eq!(config.layers[1].parent, 0);
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
    }

    #[test]
    fn times_survive_to_the_millisecond() {
        for ms in [0, 951_782_400_123, 1_709_164_800_000, 1_795_565_255_238] {
            assert_eq!(parse_time(&time_text(ms)), Some(ms), "{}", time_text(ms));
        }
        assert_eq!(parse_time("2026-11-25T00:07:35.238534448Z"), Some(1_795_565_255_238));
        for bad in ["0001-01-01T00:00:00Z", "", "2026-13-01T00:00:00Z", "x", "2026-01-01T00:00:00.é€Z"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
