//! One build, stage by stage. [`build`] reads as the table of contents.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_exec::MachineSampler;
use rbuild_exporter::{ExportError, ExportErrorKind, ExportRef, ExportRequest, Exporter, InlineCache};
use rbuild_frontend::{Bridge, BuildError, ErrorCode, Frontend, FrontendRequest, FrontendResult, SharedRef};
use rbuild_oci::ImageRef;
use rbuild_session::SessionGroup;
use rbuild_source::{Memo, SessionCredentials};
use rbuild_store::RefId;
use rbuild_worker::{Entitlements, Scope, Worker};

use crate::bridge::{BuildBridge, BuildContext};
use crate::builder::Builder;
use crate::caching::BuildCaches;
use crate::container::Containers;
use crate::error::{cancelled, from_op, told};
use crate::events::SolverEvents;
use crate::explain::Explainer;
use crate::nested::NestedSolves;
use crate::policy::Policy;
use crate::provenance::{self, Capture, Recorder};
use crate::refs::BuildRef;
use crate::request::{BuildOutcome, BuildRequest, ExporterSpec, What};
use crate::results::{Requested, results};

/// `SOURCE_DATE_EPOCH` as frontends are given it.
const EPOCH_OPTION: &str = "build-arg:SOURCE_DATE_EPOCH";

/// What failed steps left for whoever drives a build.
pub(crate) type FailedRefs = Arc<Mutex<Vec<RefId>>>;

/// Runs a build to its end. The job is closed, its steps stopped and cleaned up, before this returns.
pub(crate) async fn build(
    builder: &Builder,
    request: BuildRequest,
    progress: rbuild_progress::Progress,
    explainer: Arc<Explainer>,
    failed: &FailedRefs,
    cancel: tokio_util::sync::CancellationToken,
) -> Result<BuildOutcome, BuildError> {
    stages(builder, request, progress, explainer, failed, cancel).await.map_err(told)
}

async fn stages(
    builder: &Builder,
    request: BuildRequest,
    progress: rbuild_progress::Progress,
    explainer: Arc<Explainer>,
    failed: &FailedRefs,
    cancel: tokio_util::sync::CancellationToken,
) -> Result<BuildOutcome, BuildError> {
    let exporters = open_exporters(builder, &request.exporters)?;
    let recorder = Recorder::open(&request)?;
    let nested = Arc::new(NestedSolves::default());
    let mut scope = scope(builder, &request, progress, explainer.clone(), nested.clone(), failed)?;
    let events = Arc::new(SolverEvents::new(scope.progress.clone(), explainer.clone()));
    let credentials = Arc::new(SessionCredentials::new(builder.sessions.clone(), scope.sessions.clone()));
    let client = rbuild_cache::Client { sessions: scope.sessions.clone(), credentials };
    let caches = BuildCaches::open(builder.caches(), client, &request, &scope.progress)?;
    scope.mount_caches = caches.mounts(&scope.progress);
    let job = builder.solver.job_with(scope.clone(), events.clone(), caches.stores());
    let context = Arc::new(BuildContext {
        worker: builder.worker.clone(),
        job,
        scope,
        events,
        explainer,
        frontends: builder.frontends.clone(),
        session: request.session.clone(),
        policy: Policy::of(&builder.sessions, request.policy.clone(), &request.policy_session),
        containers: Containers::default(),
        caches,
        capture: Capture::default(),
        machine: MachineSampler::default(),
    });
    nested.belongs_to(Arc::downgrade(&context));
    let work = async {
        let epoch = epoch(&request.what)?;
        let requested = Requested::of(&request.what);
        let result = solve(&context, request.what).await?;
        let mut refs = results(&context, &result).await?;
        let mut response = frontend_metadata(&result);
        let mut attestations = Vec::new();
        // The answer to a sub-request is text, not files.
        if !is_answer(&result) {
            requested.compare(&context, &refs);
            let told = recorder.attest(&context, &result, &mut refs).await?;
            attestations = told.recorded;
            let caches = &context.caches;
            let known = caches.known(solutions(&context, &result, &refs).await?);
            let inline = caches.inline(&known);
            let annotations = annotations(&result);
            let common = Common { epoch, inline_cache: inline, bases: told.bases, annotations };
            response.extend(export(builder, &context, &exporters, refs, common).await?);
            response
                .extend(caches.export(&known, &context.scope.progress, &|work| builder.later(work)).await?);
        }
        Ok(BuildOutcome { exporter_response: response, attestations })
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        never = context.machine.watch() => match never {},
        () = cancel.cancelled() => Err(cancelled()),
        () = builder.stop.cancelled() => Err(cancelled()),
    };
    context.containers.close().await;
    context.job.cancel();
    context.job.close().await;
    outcome
}

fn scope(
    builder: &Builder,
    request: &BuildRequest,
    progress: rbuild_progress::Progress,
    explainer: Arc<Explainer>,
    nested: Arc<NestedSolves>,
    failed: &FailedRefs,
) -> Result<Scope, BuildError> {
    let asked = Entitlements::parse(&request.entitlements).map_err(|error| from_op(&error))?;
    let granted = Entitlements::granted(&builder.entitlements, &asked).map_err(|error| from_op(&error))?;
    Ok(Scope {
        progress,
        sessions: SessionGroup::of(&request.session),
        entitlements: Arc::new(granted),
        memo: Memo::default(),
        build_id: request.id.as_str().into(),
        failed: matches!(request.what, What::Client { .. }).then(|| failed.clone()),
        nested: Some(nested),
        witness: Some(explainer),
        mount_caches: None,
    })
}

fn epoch(what: &What) -> Result<Option<i64>, BuildError> {
    let options = match what {
        What::Definition(_) => return Ok(None),
        What::Frontend { options, .. } | What::Client { options, .. } => options,
    };
    let Some(text) = options.get(EPOCH_OPTION).filter(|text| !text.is_empty()) else { return Ok(None) };
    let invalid =
        |_| BuildError::invalid(format!("invalid SOURCE_DATE_EPOCH: {text}: expected seconds since 1970"));
    text.parse().map(Some).map_err(invalid)
}

type OpenExporter = Option<Arc<dyn Exporter>>;

/// Checks all outputs before anything runs: a typo must not cost a build.
fn open_exporters(builder: &Builder, specs: &[ExporterSpec]) -> Result<Vec<OpenExporter>, BuildError> {
    let open = |spec: &ExporterSpec| builder.exporters.open(&spec.kind, &spec.attrs);
    specs.iter().map(|spec| open(spec).map_err(|error| export_error(&error))).collect()
}

fn export_error(error: &ExportError) -> BuildError {
    let code = match error.kind() {
        ExportErrorKind::Invalid => ErrorCode::InvalidArgument,
        ExportErrorKind::Unsupported => ErrorCode::Unimplemented,
        ExportErrorKind::NoSpace => ErrorCode::ResourceExhausted,
        ExportErrorKind::Peer => ErrorCode::Unavailable,
        ExportErrorKind::Other => ErrorCode::Unknown,
    };
    crate::advice::of_export(BuildError::new(code, error.to_string()), error)
}

async fn solve(context: &Arc<BuildContext>, what: What) -> Result<FrontendResult, BuildError> {
    let (frontend, options, inputs): (Arc<dyn Frontend>, _, _) = match what {
        What::Definition(definition) if definition.is_scratch() => return Ok(FrontendResult::single(None)),
        What::Definition(definition) => {
            let reference: SharedRef = Arc::new(BuildRef::new(context.clone(), definition));
            return Ok(FrontendResult::single(Some(reference)));
        }
        What::Frontend { name, options, inputs } => {
            (crate::bridge::find_frontend(&context.frontends, &name, &options)?, options, inputs)
        }
        What::Client { frontend, options, inputs } => (frontend, options, inputs),
    };
    let bridge: Arc<dyn Bridge> =
        Arc::new(BuildBridge::new(context.clone(), options.clone(), inputs.clone()));
    let request = FrontendRequest { options, inputs, session_id: context.session.clone() };
    frontend.solve(bridge, request).await
}

/// Computes all references of a result, in parallel.
pub(crate) async fn evaluate(result: &FrontendResult) -> Result<(), BuildError> {
    let refs = provenance::refs_of(result);
    futures::future::try_join_all(refs.into_iter().map(|reference| reference.evaluate())).await.map(drop)
}

/// What a frontend says to the client itself (sub-requests).
fn frontend_metadata(result: &FrontendResult) -> BTreeMap<String, String> {
    let said = result.metadata.iter().filter(|(name, _)| {
        name.starts_with("frontend.") || name.starts_with("result.") || *name == "version"
    });
    said.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}

fn is_answer(result: &FrontendResult) -> bool {
    result.metadata.contains_key("result.json") || result.metadata.contains_key("result.txt")
}

/// What the build knows of its results, for the export of cache.
async fn solutions(
    context: &BuildContext,
    result: &FrontendResult,
    refs: &[ExportRef],
) -> Result<Vec<rbuild_cache::Solution>, BuildError> {
    if !context.caches.has_exports() {
        return Ok(Vec::new());
    }
    let mut solutions = Vec::new();
    for part in refs {
        if let (Some(definition), Some(output)) = (provenance::definition_of(result, part), &part.reference) {
            solutions.extend(context.solution(&definition, output.clone()).await?);
        }
    }
    Ok(solutions)
}

/// Annotations that the frontend asks for, named as the exporters' attributes are.
fn annotations(result: &FrontendResult) -> BTreeMap<String, String> {
    let named = result.metadata.iter().filter(|(name, _)| name.starts_with("annotation"));
    named.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}

/// What all exports of a build have in common.
struct Common {
    epoch: Option<i64>,
    inline_cache: Option<Arc<dyn InlineCache>>,
    bases: Vec<ImageRef>,
    annotations: BTreeMap<String, String>,
}

async fn export(
    builder: &Builder,
    context: &Arc<BuildContext>,
    exporters: &[OpenExporter],
    refs: Vec<ExportRef>,
    common: Common,
) -> Result<BTreeMap<String, String>, BuildError> {
    let credentials =
        Arc::new(SessionCredentials::new(builder.sessions.clone(), context.scope.sessions.clone()));
    let exports = exporters.iter().enumerate().filter_map(|(index, exporter)| {
        let exporter = exporter.as_ref()?;
        let request = ExportRequest {
            refs: refs.clone(),
            sessions: context.scope.sessions.clone(),
            credentials: credentials.clone(),
            reporter: context.step(&exporter.name()),
            index,
            epoch: common.epoch,
            inline_cache: common.inline_cache.clone(),
            bases: common.bases.clone(),
            annotations: common.annotations.clone(),
        };
        Some(run_exporter(&context.worker, exporter, request))
    });
    let done = futures::future::try_join_all(exports).await?;
    Ok(done.into_iter().flatten().collect())
}

async fn run_exporter(
    worker: &Worker,
    exporter: &Arc<dyn Exporter>,
    request: ExportRequest,
) -> Result<BTreeMap<String, String>, BuildError> {
    request.reporter.started();
    let mut exported = exporter.export(&request).await;
    let mut attempt = 0;
    while let Err(error) = &exported
        && error.kind() == ExportErrorKind::NoSpace
        && worker.make_room(attempt).await
    {
        tracing::info!(%error, "exported again after room was made");
        attempt += 1;
        exported = exporter.export(&request).await;
    }
    request.reporter.completed(exported.as_ref().err().map(ToString::to_string));
    exported.map(|exported| exported.response).map_err(|error| export_error(&error))
}
