//! How a result came about, in the words of SLSA: for the images and directories whose requests want to be told
//! (`attest:provenance`), and for the build history of every build.
//!
//! Central type: [`Recorder`]. Everything is looked up when the results are there: definitions name the sources, the
//! build's memo what they were, [`Capture`] which frontends ran. Nothing comes from what a step or a frontend says of
//! itself but its definition. Names of secrets are told in full provenance, their values never; passwords in URLs are
//! taken out.

mod capture;
mod inputs;
mod options;
mod predicate;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rbuild_digest::Digest;
use rbuild_exporter::{Attestation, ExportRef, Predicate};
use rbuild_frontend::{BuildError, ErrorCode, FrontendResult, ResultRefs};
use rbuild_llb::{Definition, Graph, Steps};
use rbuild_oci::ImageRef;
use rbuild_store::RefId;
use serde_json::value::RawValue;

use crate::bridge::BuildContext;
use crate::history::now_ms;
use crate::redact::without_password;
use crate::request::{BuildRequest, What};
use crate::sbom::Scanner;

pub(crate) use capture::{Capture, refs_of};
use capture::{FrontendRun, head_of};
use inputs::Inputs;
pub(crate) use options::Fields;
use options::ProvenanceOptions;
use predicate::{ConfigSource, Facts, Local, Provenance, Request, Root};

/// Steps of a graph that the history tells of unasked; a larger one is generated, and nobody reads it.
const MAX_TOLD: usize = 10_000;
/// Options that say what the client knows of its working copy.
const VCS: &str = "vcs:";
/// Options that are told elsewhere, or that say nothing about the result.
const NO_ARGS: [&str; 6] =
    ["filename", "platform", "image-resolve-mode", "cache-imports", "cache-from", "requestid"];

/// Provenance for the build's history.
#[derive(Debug, Clone)]
pub struct RecordedAttestation {
    /// The platform's id in a result for several.
    pub id: Option<String>,
    /// `https://slsa.dev/provenance/v1`
    pub predicate_type: String,
    /// The predicate's JSON.
    pub predicate: Bytes,
}

/// What was found out about a build's results.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// For the history.
    pub(crate) recorded: Vec<RecordedAttestation>,
    /// Images that they were made from, one of each repository.
    pub(crate) bases: Vec<ImageRef>,
}

impl Told {
    fn add_bases(&mut self, inputs: &Inputs) {
        for image in inputs.images() {
            if self.bases.iter().all(|known| known.repository() != image.repository()) {
                self.bases.push(image.clone());
            }
        }
    }
}

/// Knows what a request wants to be told.
#[derive(Debug)]
pub(crate) struct Recorder {
    wanted: Option<ProvenanceOptions>,
    scanner: Option<Scanner>,
    frontend: String,
    options: BTreeMap<String, String>,
    invocation: String,
    started_ms: i64,
}

impl Recorder {
    /// Errors: attestations that make no sense, before anything runs.
    pub(crate) fn open(request: &BuildRequest) -> Result<Self, BuildError> {
        let options = request.what.options().cloned().unwrap_or_default();
        options::check_kinds(&options)?;
        let frontend = match &request.what {
            What::Frontend { name, .. } => name.clone(),
            What::Definition(_) | What::Client { .. } => String::new(),
        };
        Ok(Self {
            wanted: ProvenanceOptions::parse(&options)?,
            scanner: Scanner::parse(&options)?,
            frontend,
            options,
            invocation: request.id.clone(),
            started_ms: now_ms(),
        })
    }

    /// Adds to each part of the result what is to be told of it.
    pub(crate) async fn attest(
        &self,
        context: &Arc<BuildContext>,
        result: &FrontendResult,
        parts: &mut [ExportRef],
    ) -> Result<Told, BuildError> {
        let definitions: Vec<_> = parts.iter().map(|part| definition_of(result, part)).collect();
        let heads: HashSet<Digest> = definitions.iter().flatten().filter_map(head_of).collect();
        let mut read = Inputs::default();
        for definition in context.capture.read_besides(&heads) {
            read.add_graph(context, &used(context, definition).await?.1).await?;
        }
        let mut told = Told::default();
        for (part, definition) in parts.iter_mut().zip(definitions) {
            let (Some(definition), true) = (definition, part.reference.is_some()) else { continue };
            let head = head_of(&definition);
            let run = head.and_then(|head| context.capture.run_of(&head));
            let mut inputs = read.clone();
            if let Some(scanner) = &self.scanner {
                let scans = match (&run, head) {
                    (Some(run), Some(head)) => run.scans(&head),
                    _ => {
                        result.scans.get(part.id.as_deref().unwrap_or_default()).cloned().unwrap_or_default()
                    }
                };
                let scanned = scanner.scan(context, part.platform.as_ref(), &definition, &scans).await?;
                part.attestations.extend(scanned.attestations);
                inputs.add_graph(context, &used(context, scanned.definition).await?.1).await?;
            }
            let (definition, graph) = used(context, definition).await?;
            if self.wanted.is_none() && graph.len() > MAX_TOLD {
                continue;
            }
            inputs.add_graph(context, &graph).await?;
            told.add_bases(&inputs);
            let facts = self.facts(context, run, (&definition, &graph), inputs)?;
            told.recorded.push(record(part.id.clone(), &facts)?);
            if let Some(options) = self.wanted.clone() {
                let facts = if options.max { facts } else { facts.reduced() };
                part.attestations.push(Attestation {
                    predicate_type: options.version.predicate_type().into(),
                    subjects: Vec::new(),
                    file_name: options.file_name.clone(),
                    inline_only: options.inline_only,
                    predicate: Predicate::OfLayers(Arc::new(Provenance { facts, options })),
                });
            }
        }
        Ok(told)
    }

    /// Everything about one part.
    fn facts(
        &self,
        context: &BuildContext,
        run: Option<FrontendRun>,
        (definition, graph): (&Definition, &Graph),
        inputs: Inputs,
    ) -> Result<Facts, BuildError> {
        let (frontend, options) = match &run {
            Some(run) => (run.frontend.clone(), &run.options),
            None => (self.frontend.clone(), &self.options),
        };
        let materials = inputs.materials();
        let config_of = |options: &BTreeMap<String, String>| config_source(options, &materials);
        let mut request = Request::new(frontend, args(options));
        request.secrets = inputs.secrets();
        request.ssh = inputs.ssh();
        request.locals = inputs.locals().into_iter().map(|name| Local { name }).collect();
        let of_client = client_args(&self.options);
        if run.is_some() && !of_client.is_empty() {
            let root = Request { args: of_client, ..Request::default() };
            request.root = Some(Box::new(Root { config: config_of(&self.options).into(), request: root }));
        }
        let usages = context.explainer.usages();
        let steps = Steps::of(definition, without_password).map_err(|error| unreadable(&error))?;
        let source = definition.source.as_ref().map(|source| steps.source_json(source, without_password));
        let source = source.transpose().map_err(|error| unreadable(&error))?;
        let vcs = self
            .options
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(VCS)?.to_owned(), without_password(value))));
        Ok(Facts {
            config: config_of(options),
            request,
            is_request_complete: true,
            is_complete: inputs.is_complete(),
            is_hermetic: inputs.is_hermetic(),
            vcs: vcs.collect(),
            measured: match usages.is_empty() {
                true => None,
                false => Some(raw(steps.config_json(|vertex| usages.of(vertex)))?),
            },
            machine: context.machine.samples(),
            steps: Some(raw(steps.config_json(|_| None))?),
            source: source.map(raw).transpose()?,
            outputs: outputs(context, graph, &steps)?,
            builder_platform: context.worker.platforms().first().map(ToString::to_string).unwrap_or_default(),
            invocation: self.invocation.clone(),
            started_ms: self.started_ms,
            materials,
        })
    }
}

impl Facts {
    /// What anyone may be told: nothing of build arguments, labels, secrets and steps.
    fn reduced(mut self) -> Self {
        let requests =
            [Some(&mut self.request.args), self.request.root.as_mut().map(|root| &mut root.request.args)];
        let mut is_complete = true;
        for args in requests.into_iter().flatten() {
            let all = args.len();
            args.retain(|name, _| !name.starts_with("build-arg:") && !name.starts_with("label:"));
            is_complete &= all == args.len();
        }
        if self.request.root.as_ref().is_some_and(|root| root.request.args.is_empty()) {
            self.request.root = None;
        }
        self.request.secrets.clear();
        self.request.ssh.clear();
        Self {
            is_request_complete: is_complete,
            steps: None,
            measured: None,
            source: None,
            outputs: Vec::new(),
            ..self
        }
    }
}

fn record(id: Option<String>, facts: &Facts) -> Result<RecordedAttestation, BuildError> {
    let options = ProvenanceOptions { usage: true, ..ProvenanceOptions::default() };
    let json = facts.render(&options, None).map_err(|error| unreadable(&error))?;
    Ok(RecordedAttestation {
        id,
        predicate_type: options.version.predicate_type().into(),
        predicate: rbuild_oci::json::indented(&json).into(),
    })
}

fn unreadable(error: &dyn std::error::Error) -> BuildError {
    BuildError::new(ErrorCode::Internal, format!("provenance: {error}"))
}

fn raw(json: String) -> Result<Box<RawValue>, BuildError> {
    RawValue::from_string(json).map_err(|error| unreadable(&error))
}

/// A definition as it was solved: with the sources that the client's policy wanted.
async fn used(context: &BuildContext, definition: Definition) -> Result<(Definition, Graph), BuildError> {
    let invalid = |error| BuildError::invalid(format!("invalid definition: {error}"));
    let graph = Graph::from_definition(&definition).map_err(invalid)?;
    match context.policed(&definition, &graph).await? {
        None => Ok((definition, graph)),
        Some(policed) => {
            let graph = Graph::from_definition(&policed).map_err(invalid)?;
            Ok((policed, graph))
        }
    }
}

/// What yields a part of the result; `None` for an empty file system.
pub(crate) fn definition_of(result: &FrontendResult, part: &ExportRef) -> Option<Definition> {
    let reference = match (&result.refs, &part.id) {
        (ResultRefs::Single(reference), _) => reference.as_ref(),
        (ResultRefs::Named(named), Some(id)) => named.get(id).and_then(Option::as_ref),
        (ResultRefs::Named(_), None) => None,
    };
    reference.map(|reference| reference.definition())
}

/// The layer with which each output ends, by `step1:0`.
fn outputs(context: &BuildContext, graph: &Graph, steps: &Steps) -> Result<Vec<(String, RefId)>, BuildError> {
    let (solvable, head) = context.worker.graph(graph).map_err(|error| crate::error::from_op(&error))?;
    let Some(head) = head else { return Ok(Vec::new()) };
    let mut outputs = Vec::new();
    for traced in context.job.trace(&solvable, head).into_iter().flatten() {
        let (Some(step), Some(refs)) = (steps.name(&traced.digest), &traced.outputs) else { continue };
        outputs
            .extend(refs.iter().enumerate().map(|(index, output)| (format!("{step}:{index}"), output.id())));
    }
    Ok(outputs)
}

/// Options of a frontend that say what is built.
fn args(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut args = client_args(options);
    args.retain(|name, _| !name.starts_with(VCS));
    args
}

/// The same with what the client says of its working copy.
fn client_args(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let told = options.iter().filter(|(name, value)| {
        let is_address = name.as_str() == "context" && value.contains("://");
        !is_address && !NO_ARGS.contains(&name.as_str()) && !name.starts_with(options::PREFIX)
    });
    told.map(|(name, value)| (name.clone(), without_password(value))).collect()
}

/// Where the Dockerfile is: a context elsewhere with what it was, and the file's name.
fn config_source(options: &BTreeMap<String, String>, materials: &[inputs::Material]) -> ConfigSource {
    let path = options.get("filename").cloned().unwrap_or_default();
    let Some(context) = options.get("context").filter(|context| context.contains("://")) else {
        return ConfigSource { path, ..ConfigSource::default() };
    };
    let uri = without_password(context);
    // The directory within a repository is not part of what names the commit.
    let (remote, place) = uri.split_once('#').unwrap_or((&uri, ""));
    let commit = place.split(':').next().unwrap_or_default();
    let named = if commit.is_empty() { remote.to_owned() } else { format!("{remote}#{commit}") };
    let material = materials.iter().find(|material| material.uri == named || material.uri == uri);
    let digest = material.map(|material| material.digest.clone()).unwrap_or_default();
    ConfigSource { uri, digest, path }
}

#[cfg(test)]
mod tests;
