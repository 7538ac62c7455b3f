use std::collections::BTreeMap;

use rbuild_digest::Digest;
use serde::{Deserialize, Serialize};

use crate::json::null_as_default;
use crate::{Platform, media};

/// Layers of an image beyond this are refused: no real file system stacks that many, and each costs memory.
const MAX_LAYERS: usize = 10_000;
/// Entries of an index beyond this are refused.
const MAX_MANIFESTS: usize = 10_000;

/// A typed pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is; see [`media`].
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Further places to fetch it from.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub urls: Vec<String>,
    /// Free facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself, base64, if it is small. Never trusted: bytes are fetched by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// In an index: the platform of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In an index: the type of artifact of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without extras.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Adds an annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// The digest of the uncompressed layer if an annotation tells it.
    pub fn diff_id(&self) -> Option<Digest> {
        Digest::parse(self.annotations.get(media::ANNOTATION_UNCOMPRESSED)?).ok()
    }

    /// Whether an index entry is an attestation about another entry rather than an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .get(media::ANNOTATION_REFERENCE_TYPE)
            .is_some_and(|kind| kind == "attestation-manifest")
    }
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Own media type.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub media_type: String,
    /// Type of artifact, for manifests that are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// Layers, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Free facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// An index of manifests (a manifest list).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Own media type.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub media_type: String,
    /// Type of artifact, for indexes that are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The entries.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Free facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// A manifest or index that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the right shape.
    #[error("invalid {what}: {source}")]
    Json {
        /// `manifest` or `index`.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another schema version, or the fields of both an image and an index.
    #[error("invalid {what}: {reason}")]
    Shape {
        /// `manifest` or `index`.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Manifest {
    /// Parses and checks a manifest.
    ///
    /// Errors: [`ManifestError`] if it is no schema-2 manifest, has the fields of an index too (a document that
    /// two readers take for different things), or has absurdly many layers.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let what = "manifest";
        check_ambiguity(bytes, what, "manifests")?;
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { what, source })?;
        check_version(manifest.schema_version, what)?;
        check_count(manifest.layers.len(), MAX_LAYERS, what, "layers")?;
        Ok(manifest)
    }
}

impl Index {
    /// Parses and checks an index. Errors: as [`Manifest::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let what = "index";
        check_ambiguity(bytes, what, "layers")?;
        let index: Self =
            serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { what, source })?;
        check_version(index.schema_version, what)?;
        check_count(index.manifests.len(), MAX_MANIFESTS, what, "entries")?;
        Ok(index)
    }
}

/// The other kind's list, if the document has it.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

fn check_ambiguity(bytes: &[u8], what: &'static str, foreign: &str) -> Result<(), ManifestError> {
    let probe: Probe =
        serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { what, source })?;
    let found = if foreign == "manifests" { probe.manifests } else { probe.layers };
    match found {
        Some(_) => Err(ManifestError::Shape {
            what,
            reason: format!("has `{foreign}`, which belongs to another type"),
        }),
        None => Ok(()),
    }
}

fn check_version(version: u32, what: &'static str) -> Result<(), ManifestError> {
    if version == 2 {
        return Ok(());
    }
    Err(ManifestError::Shape { what, reason: format!("schema version is {version}, only 2 is supported") })
}

fn check_count(found: usize, limit: usize, what: &'static str, of: &str) -> Result<(), ManifestError> {
    if found <= limit {
        return Ok(());
    }
    Err(ManifestError::Shape { what, reason: format!("has {found} {of}, at most {limit} are allowed") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn manifest_round_trips_byte_for_byte() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{CONFIG}","size":2}},"layers":[{{"mediaType":"{}","digest":"{CONFIG}","size":2,"annotations":{{"a":"b"}}}}]}}"#,
            media::OCI_MANIFEST,
            media::OCI_CONFIG,
            media::OCI_LAYER_GZIP
        );
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(crate::json::to_vec(&manifest).unwrap()).unwrap(), text);
    }

    #[test]
    fn nulls_of_go_are_empty() {
        let index = Index::parse(br#"{"schemaVersion":2,"manifests":null,"annotations":null}"#).unwrap();
        assert!(index.manifests.is_empty());
    }

    #[test]
    fn documents_of_two_kinds_are_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"layers":[],"config":{{"mediaType":"x","digest":"{CONFIG}","size":2}}}}"#
        );
        assert!(Manifest::parse(both.as_bytes()).is_err());
        assert!(Index::parse(both.as_bytes()).is_err());
    }

    #[test]
    fn odd_numbers_are_refused() {
        for bad in [
            r#"{"schemaVersion":1,"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:00","size":2}]}"#,
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"D","size":-1}]}"#,
            "[]",
            "",
        ] {
            assert!(Index::parse(bad.replace('D', CONFIG).as_bytes()).is_err(), "{bad}");
        }
    }
}
