use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, media};
use serde::{Deserialize, Serialize};

/// A record in the shared cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TierRecord {
    /// Its identity, of which the keys of what stands on it are made.
    pub(super) record: Digest,
    /// Per output the layers, lowest first. None at all: a source that everybody has from where it is; only
    /// its identity is shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) outputs: Vec<Vec<TierLayer>>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TierLayer {
    media_type: String,
    digest: Digest,
    size: u64,
    pub(super) diff_id: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_ms: Option<i64>,
}

impl TierLayer {
    /// `None`: it does not say what it is unpacked.
    pub(super) fn of(desc: &Descriptor, created_ms: i64) -> Option<Self> {
        Some(Self {
            media_type: media::to_oci(&desc.media_type).to_owned(),
            digest: desc.digest,
            size: desc.size,
            diff_id: desc.diff_id()?,
            created_ms: Some(created_ms),
        })
    }

    pub(super) fn desc(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.size)
    }
}

impl TierRecord {
    /// Anybody may have written it: layers that are none are refused.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let odd = |layer: &&TierLayer| media::compression_of(&layer.media_type).is_none();
        match record.outputs.iter().flatten().find(odd) {
            Some(layer) => Err(format!("{} is no layer but `{}`", layer.digest, layer.media_type)),
            None => Ok(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_strangers_are_refused() {
        let digest = Digest::of("x");
        let desc = Descriptor::of(media::OCI_LAYER_ZSTD, b"layer")
            .with_annotation(media::ANNOTATION_UNCOMPRESSED, digest.to_string());
        let layer = TierLayer::of(&desc, 5).unwrap();
        let record = TierRecord { record: digest, outputs: vec![vec![layer]] };
        let bytes = serde_json::to_vec(&record).unwrap();
        assert_eq!(TierRecord::parse(&bytes).unwrap(), record);
        let odd = String::from_utf8(bytes).unwrap().replace("image.layer", "image.shell");
        assert!(TierRecord::parse(odd.as_bytes()).unwrap_err().contains("no layer"));
        assert!(TierRecord::parse(b"{").is_err());
    }
}
