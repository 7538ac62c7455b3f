use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rbuild_frontend::{
    Bridge, BridgeContainer, BuildError, ContainerRequest, ErrorCode, Frontend, FrontendProcess,
    FrontendRequest, FrontendResult, GitMeta, ImageMeta, ImageQuery, ResolveMode, SharedRef, SolveRequest,
    SourceMeta, SourceQuery, Warning,
};
use rbuild_llb::{Definition, Graph, LlbError, SourceOp, SourcePolicy};
use rbuild_oci::{ImageRef, Platform};
use rbuild_progress::{Reporter, VertexInfo};
use rbuild_solver::Job;
use rbuild_store::Ref;
use rbuild_worker::{ImageRequest, LlbOp, ResolvedImage, Scope, Worker};

use crate::caching::BuildCaches;
use crate::container::{self, Containers};
use crate::error::{from_op, from_solve, located};
use crate::events::SolverEvents;
use crate::explain::Explainer;
use crate::policy::{self, Policy};
use crate::provenance::Capture;
use crate::refs::BuildRef;

/// Frontends that run frontends go this deep at most.
const MAX_DEPTH: u32 = 8;

/// What the parts of one build share.
#[derive(Debug)]
pub(crate) struct BuildContext {
    pub(crate) worker: Arc<Worker>,
    pub(crate) job: Job<LlbOp>,
    pub(crate) scope: Scope,
    pub(crate) events: Arc<SolverEvents>,
    pub(crate) explainer: Arc<Explainer>,
    pub(crate) frontends: Arc<BTreeMap<String, Arc<dyn Frontend>>>,
    pub(crate) session: String,
    pub(crate) policy: Option<Policy>,
    pub(crate) containers: Containers,
    pub(crate) caches: BuildCaches,
    pub(crate) capture: Capture,
    /// What the machine does meanwhile.
    pub(crate) machine: rbuild_exec::MachineSampler,
}

impl BuildContext {
    /// Lets what is solved from now on look into further caches.
    fn import_caches(&self, imports: &[(String, BTreeMap<String, String>)]) -> Result<(), BuildError> {
        for (kind, attrs) in imports {
            if let Some(cache) = self.caches.import(kind, attrs, &self.scope.progress)? {
                self.job.add_store(cache);
            }
        }
        Ok(())
    }

    /// Computes the head of a definition; `None` is scratch.
    pub(crate) async fn solve_definition(&self, definition: &Definition) -> Result<Option<Ref>, BuildError> {
        let graph = self.graph(definition).await?;
        self.events.add_groups(&graph);
        Worker::check(&graph, &self.scope.entitlements)
            .map_err(|lacking| located(from_op(&lacking.1), &graph, &lacking.0))?;
        let (solvable, head) = self.worker.graph(&graph).map_err(|error| from_op(&error))?;
        let Some(head) = head else { return Ok(None) };
        let graph = Arc::new(graph);
        self.explainer.solves(graph.clone());
        let solved = self.job.solve(&solvable, head).await;
        solved.map(|solved| Some(solved.output)).map_err(|error| from_solve(&error, &graph))
    }

    /// The checked graph of a definition, with the sources that the client's policy wants.
    async fn graph(&self, definition: &Definition) -> Result<Graph, BuildError> {
        let graph = Graph::from_definition(definition).map_err(|error| invalid(&error))?;
        match self.policed(definition, &graph).await? {
            None => Ok(graph),
            Some(policed) => Graph::from_definition(&policed).map_err(|error| invalid(&error)),
        }
    }

    /// The definition with the sources that the client's policy wants, if they are others.
    pub(crate) async fn policed(
        &self,
        definition: &Definition,
        graph: &Graph,
    ) -> Result<Option<Definition>, BuildError> {
        let Some(policy) = &self.policy else { return Ok(None) };
        let converted = policy.convert_graph(self, graph).await?;
        Ok((!converted.is_empty()).then(|| converted.apply(definition, graph)))
    }

    /// What the job knows of the graph of a definition that was solved to `output`: for the export of cache.
    pub(crate) async fn solution(
        &self,
        definition: &Definition,
        output: Ref,
    ) -> Result<Option<rbuild_cache::Solution>, BuildError> {
        let graph = self.graph(definition).await?;
        let (graph, head) = self.worker.graph(&graph).map_err(|error| from_op(&error))?;
        let Some(root) = head else { return Ok(None) };
        Ok(Some(rbuild_cache::Solution { vertices: self.job.trace(&graph, root), root, output }))
    }

    /// A step of the build's own, shown beside the vertices.
    pub(crate) fn step(&self, name: &str) -> Reporter {
        self.scope.progress.vertex(VertexInfo::synthetic(name))
    }
}

/// The bridge of one build, at one depth of nested frontends.
#[derive(Debug)]
pub(crate) struct BuildBridge {
    context: Arc<BuildContext>,
    options: BTreeMap<String, String>,
    inputs: BTreeMap<String, Definition>,
    depth: u32,
}

impl BuildBridge {
    pub(crate) fn new(
        context: Arc<BuildContext>,
        options: BTreeMap<String, String>,
        inputs: BTreeMap<String, Definition>,
    ) -> Self {
        Self { context, options, inputs, depth: 0 }
    }

    async fn run_frontend(&self, request: SolveRequest) -> Result<FrontendResult, BuildError> {
        if self.depth >= MAX_DEPTH {
            return Err(BuildError::invalid(format!("frontends are nested more than {MAX_DEPTH} deep")));
        }
        let frontend = find_frontend(&self.context.frontends, &request.frontend, &request.options)?;
        let bridge = Arc::new(Self {
            context: self.context.clone(),
            options: request.options.clone(),
            inputs: request.inputs.clone(),
            depth: self.depth + 1,
        });
        let (name, options) = (request.frontend, request.options.clone());
        let request = FrontendRequest {
            options: request.options,
            inputs: request.inputs,
            session_id: self.context.session.clone(),
        };
        let result = frontend.solve(bridge, request).await?;
        if self.depth == 0 {
            self.context.capture.ran(&name, &options, &result);
        }
        Ok(result)
    }

    /// The image that the client's policy wants in place of the one that is asked for.
    async fn policed(&self, query: &mut ImageQuery) -> Result<(), BuildError> {
        if self.context.policy.is_none() && query.policies.is_empty() {
            return Ok(());
        }
        let scheme = if query.oci_layout.is_some() { "oci-layout" } else { "docker-image" };
        let name = ImageRef::parse(&query.reference).map(|name| name.tag_or_latest().to_string());
        let name = name.unwrap_or_else(|_| query.reference.clone());
        let source = SourceOp::new(format!("{scheme}://{name}"), BTreeMap::new());
        let wanted = self.wanted(&query.policies, &source, query.platform.as_ref()).await?;
        match wanted.identifier.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) {
            Some(_) if wanted == source => {}
            Some(reference) => query.reference = reference.to_owned(),
            None => {
                return Err(BuildError::new(
                    ErrorCode::PermissionDenied,
                    format!(
                        "source policy: image {name} is to be replaced by something that is no image of its kind"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The source that rules and policy want in place of one.
    async fn wanted(
        &self,
        rules: &[SourcePolicy],
        source: &SourceOp,
        platform: Option<&Platform>,
    ) -> Result<SourceOp, BuildError> {
        let wanted = policy::ruled_source(rules, source)?;
        match &self.context.policy {
            Some(policy) => policy.decide(&self.context, &wanted, platform).await,
            None => Ok(wanted),
        }
    }

    async fn show<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T, BuildError>>,
        reporter: &Reporter,
    ) -> Result<T, BuildError> {
        if name.is_empty() {
            return work.await;
        }
        reporter.started();
        let result = work.await;
        reporter.completed(result.as_ref().err().map(ToString::to_string));
        result
    }
}

fn invalid(error: &LlbError) -> BuildError {
    BuildError::invalid(format!("invalid definition: {error}"))
}

pub(crate) fn find_frontend(
    frontends: &BTreeMap<String, Arc<dyn Frontend>>,
    name: &str,
    options: &BTreeMap<String, String>,
) -> Result<Arc<dyn Frontend>, BuildError> {
    if let Some(frontend) = frontends.get(name) {
        return Ok(frontend.clone());
    }
    if name == "gateway.v0" {
        let image = options.get("source").map_or("an image", String::as_str);
        return Err(BuildError::new(
            ErrorCode::PermissionDenied,
            format!(
                "frontends that are images are switched off in the configuration of rbuildd: `{image}` is not run"
            ),
        ));
    }
    let known: Vec<_> = frontends.keys().map(String::as_str).collect();
    Err(BuildError::invalid(format!("frontend `{name}` not found: this daemon has {}", known.join(", "))))
}

/// As the wire spells it.
fn mode_text(mode: ResolveMode) -> &'static str {
    match mode {
        ResolveMode::Default => "default",
        ResolveMode::ForcePull => "pull",
        ResolveMode::PreferLocal => "local",
    }
}

fn image_meta(resolved: ResolvedImage) -> ImageMeta {
    ImageMeta { reference: resolved.reference, digest: resolved.digest, config: resolved.config }
}

fn warning_to_progress(warning: Warning) -> rbuild_progress::Warning {
    let info = warning.location.as_ref().map(|location| location.info.to_wire());
    let ranges =
        warning.location.map(|location| location.ranges.iter().map(|range| range.to_wire()).collect());
    rbuild_progress::Warning {
        level: warning.level,
        short: warning.short,
        detail: warning.detail,
        url: warning.url,
        info,
        ranges: ranges.unwrap_or_default(),
    }
}

#[async_trait]
impl Bridge for BuildBridge {
    async fn solve(&self, request: SolveRequest) -> Result<FrontendResult, BuildError> {
        let evaluate = request.evaluate;
        self.context.import_caches(&request.cache_imports)?;
        let result = match (&request.definition, request.frontend.is_empty()) {
            (Some(_), false) => {
                return Err(BuildError::invalid("solve: give either a definition or a frontend, not both"));
            }
            (None, true) => FrontendResult::single(None),
            (Some(definition), true) if definition.is_scratch() => FrontendResult::single(None),
            (Some(definition), true) => {
                // Checked now, so that the frontend learns of a mistake where it made it.
                Graph::from_definition(definition).map_err(|error| invalid(&error))?;
                let definition = policy::ruled(&request.policies, definition)?.unwrap_or(definition.clone());
                let reference: SharedRef = Arc::new(BuildRef::new(self.context.clone(), definition));
                FrontendResult::single(Some(reference))
            }
            (None, false) => self.run_frontend(request).await?,
        };
        if evaluate {
            crate::run::evaluate(&result).await?;
        }
        Ok(result)
    }

    async fn resolve_image(&self, query: ImageQuery) -> Result<ImageMeta, BuildError> {
        let reporter = self.context.step(&query.log_name);
        let name = query.log_name.clone();
        let asked = query.reference.clone();
        let work = async {
            let mut query = query;
            self.policed(&mut query).await?;
            let request = ImageRequest {
                reference: query.reference,
                platform: query.platform,
                mode: mode_text(query.mode).into(),
                oci_layout: query.oci_layout,
            };
            let resolved = self.context.worker.resolve_image(&self.context.scope, &reporter, request);
            let failed = format!("failed to resolve source metadata for {asked}");
            resolved.await.map_err(|error| from_op(&error).context(failed))
        };
        let resolved = self.show(&name, work, &reporter).await?;
        Ok(image_meta(resolved))
    }

    async fn resolve_source(&self, query: SourceQuery) -> Result<SourceMeta, BuildError> {
        let reporter = self.context.step(&query.log_name);
        let name = query.log_name.clone();
        let mut source = query.source;
        if source.identifier.starts_with("docker-image://") && query.mode != ResolveMode::Default {
            source.attrs.insert("image.resolvemode".into(), mode_text(query.mode).into());
        }
        let work = async {
            let source = self.wanted(&query.policies, &source, query.platform.as_ref()).await?;
            let worker = &self.context.worker;
            let resolved = worker.resolve_source(&self.context.scope, &reporter, &source, query.platform);
            resolved.await.map(|resolved| (resolved, source)).map_err(|error| from_op(&error))
        };
        let (resolved, source) = self.show(&name, work, &reporter).await?;
        Ok(SourceMeta {
            image: resolved.image.map(image_meta),
            git: resolved.git.map(|git| GitMeta {
                object: git.object().to_owned(),
                commit: git.commit,
                reference: git.reference,
            }),
            http: resolved.http,
            source,
        })
    }

    async fn warn(&self, warning: Warning) -> Result<(), BuildError> {
        let reporter = match warning.vertex {
            Some(digest) => self.context.scope.progress.vertex(VertexInfo {
                digest,
                name: String::new(),
                inputs: Vec::new(),
                group: None,
            }),
            None => self.context.step("warning"),
        };
        reporter.warn(warning_to_progress(warning));
        Ok(())
    }

    fn inputs(&self) -> BTreeMap<String, Definition> {
        self.inputs.clone()
    }

    fn options(&self) -> BTreeMap<String, String> {
        self.options.clone()
    }

    fn session_id(&self) -> String {
        self.context.session.clone()
    }

    fn platforms(&self) -> Vec<Platform> {
        self.context.worker.platforms()
    }

    async fn run_process(&self, root: SharedRef, process: FrontendProcess) -> Result<u32, BuildError> {
        crate::process::run(&self.context, &root, process).await
    }

    async fn new_container(&self, request: ContainerRequest) -> Result<Arc<dyn BridgeContainer>, BuildError> {
        container::open(&self.context, request).await
    }
}
