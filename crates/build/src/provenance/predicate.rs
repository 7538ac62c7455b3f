//! The predicate as it is written. Source: SLSA provenance v0.2 and v1; upstream's fields of its own are those of its
//! documents on the definitions, and what it leaves out when it is empty was seen in what it writes.

use std::collections::BTreeMap;

use bytes::Bytes;
use rbuild_exec::MachineSample;
use rbuild_exporter::{ExportError, MakePredicate};
use rbuild_oci::format_time;
use rbuild_store::{LayerBlob, RefId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::inputs::{Asked, Material};
use super::options::{ProvenanceOptions, Version};

/// How builds behave whose request names no version, as upstream counts versions.
const COMPATIBILITY: u32 = 30;
const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

type Map = BTreeMap<String, String>;

/// All that is known of how one result came about.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) config: ConfigSource,
    pub(crate) request: Request,
    /// Whether nothing of the request is left out.
    pub(crate) is_request_complete: bool,
    pub(crate) materials: Vec<Material>,
    pub(crate) is_complete: bool,
    pub(crate) is_hermetic: bool,
    /// What the client says of its working copy.
    pub(crate) vcs: Map,
    pub(crate) steps: Option<Box<RawValue>>,
    /// The same with what they used, if that is known.
    pub(crate) measured: Option<Box<RawValue>>,
    /// What the machine did meanwhile.
    pub(crate) machine: Vec<MachineSample>,
    pub(crate) source: Option<Box<RawValue>>,
    /// Which layer each output of the steps ends with.
    pub(crate) outputs: Vec<(String, RefId)>,
    pub(crate) builder_platform: String,
    pub(crate) invocation: String,
    /// Milliseconds since 1970.
    pub(crate) started_ms: i64,
}

/// Where the build's instructions came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConfigSource {
    pub(crate) uri: String,
    pub(crate) digest: Map,
    pub(crate) path: String,
}

/// What was asked.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Request {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) frontend: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) args: Map,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<Asked>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ssh: Vec<Asked>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) locals: Vec<Local>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<Box<Root>>,
    #[serde(rename = "compatibilityVersion", skip_serializing_if = "is_zero")]
    pub(crate) compatibility: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Request {
    /// A request that a client made, or made its frontend make.
    pub(crate) fn new(frontend: String, args: Map) -> Self {
        Self { frontend, args, compatibility: COMPATIBILITY, ..Self::default() }
    }
}

/// A directory of the client's.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Local {
    pub(crate) name: String,
}

/// The request of a client whose frontend then made another one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Root {
    #[serde(rename = "configSource")]
    pub(crate) config: ConfigV1,
    pub(crate) request: Request,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ConfigV1 {
    #[serde(skip_serializing_if = "String::is_empty")]
    uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    digest: Map,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
}

impl From<ConfigSource> for ConfigV1 {
    fn from(source: ConfigSource) -> Self {
        Self { uri: source.uri, digest: source.digest, path: source.path }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct V1<'a> {
    build_definition: Definition<'a>,
    run_details: RunDetails<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
    build_type: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    resolved_dependencies: &'a [Material],
    external_parameters: External<'a>,
    internal_parameters: Internal<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct External<'a> {
    config_source: ConfigV1,
    request: &'a Request,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Internal<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<&'a RawValue>,
    builder_platform: &'a str,
    dockerfile_version: String,
}

#[derive(Debug, Serialize)]
struct RunDetails<'a> {
    builder: BuilderId<'a>,
    metadata: MetadataV1<'a>,
}

#[derive(Debug, Serialize)]
struct BuilderId<'a> {
    id: &'a str,
}

#[derive(Debug, Serialize)]
struct MetadataV1<'a> {
    #[serde(rename = "invocationId")]
    invocation: &'a str,
    #[serde(rename = "startedOn")]
    started: Option<String>,
    #[serde(rename = "finishedOn")]
    finished: Option<String>,
    buildkit_metadata: Own<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    buildkit_hermetic: bool,
    buildkit_completeness: CompletenessV1,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    buildkit_reproducible: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CompletenessV1 {
    request: bool,
    resolved_dependencies: bool,
}

/// What the specification has no place for.
#[derive(Debug, Clone, Serialize)]
struct Own<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    vcs: &'a Map,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    layers: BTreeMap<&'a str, Vec<Vec<Layer<'a>>>>,
    #[serde(rename = "sysUsage", skip_serializing_if = "<[_]>::is_empty")]
    machine: &'a [MachineSample],
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Layer<'a> {
    media_type: &'a str,
    digest: String,
    size: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct V02<'a> {
    builder: BuilderId<'a>,
    build_type: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    materials: &'a [Material],
    invocation: Invocation<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<&'a RawValue>,
    metadata: MetadataV02<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation<'a> {
    config_source: ConfigV02<'a>,
    parameters: Request,
    environment: Environment<'a>,
}

#[derive(Debug, Serialize)]
struct ConfigV02<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    uri: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    digest: &'a Map,
    #[serde(rename = "entryPoint", skip_serializing_if = "str::is_empty")]
    path: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Environment<'a> {
    dockerfile_version: String,
    platform: &'a str,
}

#[derive(Debug, Serialize)]
struct MetadataV02<'a> {
    #[serde(rename = "buildInvocationID")]
    invocation: &'a str,
    #[serde(rename = "buildStartedOn")]
    started: Option<String>,
    #[serde(rename = "buildFinishedOn")]
    finished: Option<String>,
    completeness: CompletenessV02,
    reproducible: bool,
    #[serde(
        rename = "https://mobyproject.org/buildkit@v1#hermetic",
        skip_serializing_if = "std::ops::Not::not"
    )]
    hermetic: bool,
    #[serde(rename = "https://mobyproject.org/buildkit@v1#metadata")]
    own: Own<'a>,
}

#[derive(Debug, Serialize)]
struct CompletenessV02 {
    parameters: bool,
    environment: bool,
    materials: bool,
}

/// Of the frontend that is built in; it has no life of its own.
fn dockerfile_version() -> String {
    format!("rbuild-{}", env!("CARGO_PKG_VERSION"))
}

fn time(ms: i64) -> Option<String> {
    let nanos = u32::try_from(ms.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
    format_time(ms.div_euclid(1000), nanos)
}

impl Facts {
    /// The predicate's JSON.
    pub(crate) fn render(
        &self,
        options: &ProvenanceOptions,
        layers: Option<&[LayerBlob]>,
    ) -> serde_json::Result<Vec<u8>> {
        match options.version {
            Version::V1 => self.v1(options, layers),
            Version::V02 => self.v02(options, layers),
        }
    }

    fn v1(&self, options: &ProvenanceOptions, layers: Option<&[LayerBlob]>) -> serde_json::Result<Vec<u8>> {
        let predicate = V1 {
            build_definition: Definition {
                build_type: BUILD_TYPE_V1,
                resolved_dependencies: &self.materials,
                external_parameters: External {
                    config_source: self.config.clone().into(),
                    request: &self.request,
                },
                internal_parameters: Internal {
                    build_config: self.told_steps(options),
                    builder_platform: &self.builder_platform,
                    dockerfile_version: dockerfile_version(),
                },
            },
            run_details: RunDetails {
                builder: BuilderId { id: &options.builder_id },
                metadata: MetadataV1 {
                    invocation: &self.invocation,
                    started: time(self.started_ms),
                    finished: time(crate::history::now_ms()),
                    buildkit_metadata: self.own(options, layers),
                    buildkit_hermetic: self.is_hermetic,
                    buildkit_completeness: CompletenessV1 {
                        request: self.is_request_complete,
                        resolved_dependencies: self.is_complete,
                    },
                    buildkit_reproducible: options.reproducible,
                },
            },
        };
        rbuild_oci::json::to_vec(&predicate)
    }

    fn v02(&self, options: &ProvenanceOptions, layers: Option<&[LayerBlob]>) -> serde_json::Result<Vec<u8>> {
        let predicate = V02 {
            builder: BuilderId { id: &options.builder_id },
            build_type: BUILD_TYPE_V02,
            materials: &self.materials,
            invocation: Invocation {
                config_source: ConfigV02 {
                    uri: &self.config.uri,
                    digest: &self.config.digest,
                    path: &self.config.path,
                },
                parameters: self.request.clone(),
                environment: Environment {
                    dockerfile_version: dockerfile_version(),
                    platform: &self.builder_platform,
                },
            },
            build_config: self.told_steps(options),
            metadata: MetadataV02 {
                invocation: &self.invocation,
                started: time(self.started_ms),
                finished: time(crate::history::now_ms()),
                completeness: CompletenessV02 {
                    parameters: self.is_request_complete,
                    environment: true,
                    materials: self.is_complete,
                },
                reproducible: options.reproducible,
                hermetic: self.is_hermetic,
                own: self.own(options, layers),
            },
        };
        rbuild_oci::json::to_vec(&predicate)
    }

    /// With what they used, if that is wanted and known.
    fn told_steps(&self, options: &ProvenanceOptions) -> Option<&RawValue> {
        self.measured.as_deref().filter(|_| options.usage).or(self.steps.as_deref())
    }

    fn own<'a>(&'a self, options: &ProvenanceOptions, layers: Option<&'a [LayerBlob]>) -> Own<'a> {
        Own {
            vcs: &self.vcs,
            source: self.source.as_deref(),
            layers: self.layers(layers.unwrap_or(&[])),
            machine: if options.usage { &self.machine } else { &[] },
        }
    }

    /// By output of a step, the layers that it consists of, as far as they are layers of the result.
    fn layers<'a>(&'a self, layers: &'a [LayerBlob]) -> BTreeMap<&'a str, Vec<Vec<Layer<'a>>>> {
        let described: Vec<_> = layers
            .iter()
            .map(|layer| Layer {
                media_type: &layer.desc.media_type,
                digest: layer.desc.digest.to_string(),
                size: layer.desc.size,
            })
            .collect();
        let mut found = BTreeMap::new();
        for (name, top) in &self.outputs {
            if let Some(last) = layers.iter().position(|layer| layer.layer == *top) {
                found.insert(name.as_str(), vec![described[..=last].to_vec()]);
            }
        }
        found
    }
}

/// The facts with what is to be told of them.
#[derive(Debug)]
pub(crate) struct Provenance {
    pub(crate) facts: Facts,
    pub(crate) options: ProvenanceOptions,
}

impl MakePredicate for Provenance {
    fn predicate(&self, layers: Option<&[LayerBlob]>) -> Result<Bytes, ExportError> {
        let rendered = self.facts.render(&self.options, layers.filter(|_| self.options.max));
        rendered.map(Bytes::from).map_err(|error| ExportError::Internal(format!("provenance: {error}")))
    }
}
