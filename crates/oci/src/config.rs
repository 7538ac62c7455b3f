use std::collections::BTreeMap;

use rbuild_digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{self, null_as_default};
use crate::{ManifestError, Platform};

/// The config blob of an image.
///
/// Fields are declared in the order in which Go writes upstream's struct, and empty ones are left out by the same
/// rules. What we do not know is kept in `extra` and written after the known fields. [`ImageConfig::to_json`]
/// writes this order (as a frontend returns it); [`ImageConfig::to_sorted_json`] sorts the top level (as upstream's
/// image exporter writes it in the end).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub author: String,
    /// What runs it.
    #[serde(flatten)]
    pub platform: Platform,
    /// Layers by uncompressed digest.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How each layer came about, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub history: Vec<History>,
    /// Defaults for containers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ContainerConfig,
    /// Fields of the base image that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Defaults for containers made from an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// User name or id, with an optional group.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub user: String,
    /// Ports (`80/tcp`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Environment, `KEY=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// First words of the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    /// Last words of the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    /// Mount points.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub volumes: BTreeMap<String, Empty>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops a container.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub stop_signal: String,
    /// The command is already escaped (Windows).
    #[serde(default, skip_serializing_if = "is_false", deserialize_with = "null_as_default")]
    pub args_escaped: bool,
    /// How to check that a container is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for images built upon this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub on_build: Vec<String>,
    /// Shell for commands given as one string.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub shell: Vec<String>,
    /// Fields of the base image that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The value of Go's sets: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// How to check that a container is well; times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`; empty inherits.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub test: Vec<String>,
    /// Between checks.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_as_default")]
    pub interval: i64,
    /// For one check.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_as_default")]
    pub timeout: i64,
    /// Before failures count.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_as_default")]
    pub start_period: i64,
    /// Between checks before failures count.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_as_default")]
    pub start_interval: i64,
    /// Failures in a row until the container is unwell.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_as_default")]
    pub retries: i64,
}

/// Layers by uncompressed digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_as_default")]
    pub kind: String,
    /// Lowest first.
    #[serde(default, deserialize_with = "null_as_default", serialize_with = "empty_as_null")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// How a layer came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub created_by: String,
    /// Who.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub author: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub comment: String,
    /// The instruction made no layer.
    #[serde(default, skip_serializing_if = "is_false", deserialize_with = "null_as_default")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// An empty image for `platform`.
    pub fn new(platform: Platform) -> Self {
        Self { platform, ..Self::default() }
    }

    /// Parses a config blob. Errors: [`ManifestError::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { what: "image config", source })
    }

    /// JSON in the order of Go's struct.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_vec(self).expect("keys are strings")
    }

    /// JSON with the top level sorted, as upstream's exporter writes the blob that is pushed.
    pub fn to_sorted_json(&self) -> Vec<u8> {
        let mut fields = BTreeMap::new();
        let mut put = |key: &str, value: Value| {
            fields.insert(key.to_owned(), value);
        };
        let text = |text: &str| Value::String(text.to_owned());
        if let Some(created) = &self.created {
            put("created", text(created));
        }
        if !self.author.is_empty() {
            put("author", text(&self.author));
        }
        let platform = serde_json::to_value(&self.platform).expect("keys are strings");
        if let Value::Object(platform) = platform {
            platform.into_iter().for_each(|(key, value)| put(&key, value));
        }
        for (key, value) in &self.extra {
            put(key, value.clone());
        }
        let mut parts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (key, value) in &fields {
            parts.insert(key.clone(), json::to_vec(value).expect("keys are strings"));
        }
        parts.insert("rootfs".into(), json::to_vec(&self.rootfs).expect("keys are strings"));
        parts.insert("config".into(), json::to_vec(&self.config).expect("keys are strings"));
        if !self.history.is_empty() {
            parts.insert("history".into(), json::to_vec(&self.history).expect("keys are strings"));
        }
        join_object(&parts)
    }
}

/// One JSON object of values that are JSON already: nested objects keep their own order.
fn join_object(parts: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (key, value) in parts {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend(json::to_vec(key).expect("a string"));
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    out
}

/// A time as Go writes it: UTC, fraction without trailing zeros. `None` if the time is out of range.
pub fn format_time(unix_s: i64, nanos: u32) -> Option<String> {
    let time = jiff::Timestamp::new(unix_s, i32::try_from(nanos).ok()?).ok()?;
    Some(time.to_string())
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Go writes a nil slice as `null`.
fn empty_as_null<S: serde::Serializer>(value: &[Digest], serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_empty() { serializer.serialize_none() } else { value.serialize(serializer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ImageConfig {
        let mut image = ImageConfig::new(Platform::parse("linux/arm/v7").unwrap());
        image.created = Some("2024-01-02T03:04:05.6Z".into());
        image.config.env = vec!["PATH=/bin".into()];
        image.config.exposed_ports.insert("80/tcp".into(), Empty {});
        image.config.healthcheck = Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() });
        image.config.on_build = vec!["RUN a && b".into()];
        image.history = vec![History { created_by: "x".into(), empty_layer: true, ..History::default() }];
        image
    }

    #[test]
    fn bytes_are_those_of_go() {
        let text = String::from_utf8(sample().to_json()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"created":"2024-01-02T03:04:05.6Z","architecture":"arm","os":"linux","variant":"v7","#,
                r#""rootfs":{"type":"layers","diff_ids":null},"history":[{"created_by":"x","empty_layer":true}],"#,
                r#""config":{"ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin"],"Healthcheck":{"Test":["NONE"]},"#,
                r#""OnBuild":["RUN a \u0026\u0026 b"]}}"#
            )
        );
    }

    #[test]
    fn exported_bytes_have_a_sorted_top_level() {
        let mut image = sample();
        image.extra.insert("docker_version".into(), Value::String("1".into()));
        let text = String::from_utf8(image.to_sorted_json()).unwrap();
        let keys: Vec<String> = serde_json::from_str::<serde_json::Map<String, Value>>(&text)
            .unwrap()
            .keys()
            .map(String::clone)
            .collect();
        assert_eq!(
            keys,
            ["architecture", "config", "created", "docker_version", "history", "os", "rootfs", "variant"]
        );
        assert!(text.starts_with(r#"{"architecture":"arm","config":{"ExposedPorts""#), "{text}");
        assert_eq!(ImageConfig::parse(text.as_bytes()).unwrap(), image);
    }

    #[test]
    fn unknown_fields_and_nulls_survive() {
        let text = br#"{"architecture":"amd64","os":"linux","container":"abc","config":{"Hostname":"h","Env":null,
            "Cmd":null,"OnBuild":null,"Healthcheck":null,"Labels":null},"rootfs":{"type":"layers","diff_ids":null},
            "history":null}"#;
        let image = ImageConfig::parse(text).unwrap();
        assert_eq!(image.extra["container"], "abc");
        assert_eq!(image.config.extra["Hostname"], "h");
        assert_eq!(ImageConfig::parse(&image.to_json()).unwrap(), image);
    }

    #[test]
    fn times_are_written_as_go_does() {
        assert_eq!(format_time(0, 0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(format_time(1_700_000_000, 120_000_000).unwrap(), "2023-11-14T22:13:20.12Z");
        assert_eq!(format_time(i64::MAX, 0), None);
    }
}
