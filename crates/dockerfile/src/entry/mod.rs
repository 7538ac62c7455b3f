//! The frontend `dockerfile.v0`: reads the file, resolves what it names and hands definitions to the daemon.

mod images;
mod load;
mod named;
mod remote;
mod request;
mod result;
mod syntax;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{try_join, try_join_all};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rbuild_frontend::{
    Bridge, BuildError, Detail, ErrorCode, Frontend, FrontendRequest, FrontendResult, Warning,
};
use rbuild_llb::Definition;
use rbuild_oci::Platform;

use crate::context::BuildContext;
use crate::lower::{LoweredStage, lower};
use crate::parse::{self, Parsed};
use crate::plan::Plan;
use crate::source::Source;
use crate::{CompileError, CompileOptions};
use load::Loader;
pub use remote::is_archive;
use request::BuildRequest;

/// How many images of one platform are resolved at a time: a file may name thousands.
const MAX_RESOLVING: usize = 16;

/// Compiles the Dockerfile of a request; the state lives in the request, the frontend has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct DockerfileFrontend;

#[async_trait]
impl Frontend for DockerfileFrontend {
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError> {
        if let Some(subrequest) = request.options.get("requestid").filter(|id| !id.is_empty()) {
            return result::subrequest(subrequest);
        }
        let platforms = bridge.platforms();
        let build = BuildRequest::parse(request, &platforms)?;
        let loader = Loader::new(bridge.clone(), &build).await?;
        let (source, ignore) = loader.dockerfile().await?;
        if let Some(forward) = syntax::forward(&build, &source) {
            let result = bridge.solve(forward.request).await;
            return result.map_err(|error| syntax::locate(error, &source, forward.line));
        }
        let text = source.clone();
        let parsed = off_runtime(move || parse::parse(&text.info.data)).await?;
        let parsed = Arc::new(parsed.map_err(|error| error.into_build_error(&source))?);
        warn(&*bridge, &source, &parsed).await?;
        let shared = Shared { bridge, build, source, parsed, loader, ignore };
        shared.build().await
    }
}

/// What the platforms of one request share.
struct Shared {
    bridge: Arc<dyn Bridge>,
    build: BuildRequest,
    source: Source,
    parsed: Arc<Parsed>,
    loader: Loader,
    /// The patterns of `<Dockerfile>.dockerignore`, if there is one.
    ignore: Option<Vec<String>>,
}

impl Shared {
    async fn build(&self) -> Result<FrontendResult, BuildError> {
        let plans = try_join_all(self.build.platforms.iter().map(|options| self.plan(options)));
        let context = self.loader.context(&self.build, self.ignore.clone());
        let (plans, context) = try_join(plans, context).await?;
        let platforms = &self.build.platforms;
        let lowered =
            plans.into_iter().zip(platforms).map(|(plan, options)| self.lower(plan, options, &context));
        // A mistake for one platform is told before anything runs for another.
        let lowered = try_join_all(lowered).await?;
        let finished =
            lowered.into_iter().zip(platforms).map(|((lowered, definition), options)| async move {
                let reference = result::solve(&*self.bridge, definition).await?;
                let platform = options.target_platform.clone();
                Ok::<_, BuildError>(result::Platformed { platform, lowered, reference })
            });
        result::assemble(try_join_all(finished).await?, &self.build)
    }

    fn located(&self, error: CompileError) -> BuildError {
        error.into_build_error(&self.source)
    }

    /// Plans one platform and finds out all that it needs to know.
    async fn plan(&self, options: &CompileOptions) -> Result<Plan, BuildError> {
        let names = self.build.contexts.iter().map(|context| context.name.clone()).collect();
        let (parsed, own_options) = (self.parsed.clone(), options.clone());
        let plan = off_runtime(move || Plan::new(&parsed, &own_options, names)).await?;
        let mut plan = plan.map_err(|e| self.located(e))?;
        loop {
            let missing = plan.missing().map_err(|e| self.located(e))?;
            if missing.is_empty() {
                return Ok(plan);
            }
            let resolved = stream::iter(missing).map(|need| async move {
                let image = self.resolve(&need, options).await.map_err(|error| match need.lines {
                    Some(lines) => self.located(CompileError::from(error).or_at(lines)),
                    None => error,
                })?;
                Ok::<_, BuildError>((need.stages, Arc::new(image)))
            });
            let resolved: Vec<_> = resolved.buffered(MAX_RESOLVING).try_collect().await?;
            for (stages, image) in resolved {
                for stage in stages {
                    plan.provide(stage, image.clone()).map_err(|e| self.located(e))?;
                }
            }
        }
    }

    async fn lower(
        &self,
        plan: Plan,
        options: &CompileOptions,
        context: &BuildContext,
    ) -> Result<(LoweredStage, Definition), BuildError> {
        let (source, options, context) = (self.source.clone(), options.clone(), context.clone());
        let lowered = off_runtime(move || {
            let lowered = lower(&plan, &source, &options, &context)?;
            let definition = result::definition(&lowered, &options)?;
            Ok((lowered, definition))
        });
        lowered.await?.map_err(|e| self.located(e))
    }
}

/// Runs what takes long for large files, without holding up those whom this thread serves as well.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BuildError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| BuildError::new(ErrorCode::Internal, format!("compiling the Dockerfile: {error}")))
}

async fn warn(bridge: &dyn Bridge, source: &Source, parsed: &Parsed) -> Result<(), BuildError> {
    for warning in &parsed.warnings {
        let shown = Warning {
            vertex: None,
            level: 1,
            short: warning.short.clone(),
            detail: vec![warning.detail.to_owned()],
            url: warning.url.to_owned(),
            location: Some(source.location(warning.lines)),
        };
        bridge.warn(shown).await?;
    }
    Ok(())
}

/// Options of a compilation that nobody but the caller takes part in.
pub(crate) fn offline_options(options: &BTreeMap<String, String>) -> Result<CompileOptions, CompileError> {
    let request = FrontendRequest { options: options.clone(), ..FrontendRequest::default() };
    let build = BuildRequest::parse(request, &[Platform::new("linux", "amd64")])?;
    Ok(build.platforms.into_iter().next().unwrap_or_default())
}

/// An error that a client may recognise as a missing feature of the frontend.
fn unsupported(message: String, detail: Detail) -> BuildError {
    BuildError::new(ErrorCode::Unimplemented, message).with(detail)
}
