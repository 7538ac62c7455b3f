//! The frontend `dockerfile.v0`: reads the file, resolves what it names and hands definitions to the daemon.

mod git;
mod images;
mod load;
mod named;
mod question;
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
    Bridge, BuildError, Detail, ErrorCode, Frontend, FrontendRequest, FrontendResult, ScanTarget,
};
use rbuild_llb::Definition;
use rbuild_oci::Platform;

use crate::context::BuildContext;
use crate::lint::{self, LintConfig, Linter};
use crate::lower::{self, LoweredStage, lower};
use crate::parse::{self, Parsed};
use crate::plan::{BaseFiles, BaseImage, Plan, StageId};
use crate::source::Source;
use crate::{CompileError, CompileOptions};
use load::Loader;
pub use remote::is_archive;
use request::BuildRequest;
pub use syntax::BUILT_IN;

/// How many images of one platform are resolved at a time: a file may name thousands.
const MAX_RESOLVING: usize = 16;

/// Compiles the Dockerfile of a request; the state lives in the request, the frontend has none.
#[derive(Debug, Clone)]
pub struct DockerfileFrontend {
    built_in: Vec<String>,
}

impl Default for DockerfileFrontend {
    fn default() -> Self {
        Self::standing_in_for(BUILT_IN.map(str::to_owned).to_vec())
    }
}

impl DockerfileFrontend {
    /// A frontend that compiles files whose `syntax` names one of these repositories itself.
    pub fn standing_in_for(repositories: Vec<String>) -> Self {
        Self { built_in: repositories }
    }
}

#[async_trait]
impl Frontend for DockerfileFrontend {
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError> {
        let platforms = bridge.platforms();
        let build = BuildRequest::parse(request, &platforms)?;
        let loader = Loader::new(bridge.clone(), &build).await?;
        let (source, ignore) = loader.dockerfile().await?;
        if let Some(forward) = syntax::forward(&build, &source, &self.built_in) {
            let result = bridge.solve(forward.request).await;
            return result.map_err(|error| syntax::locate(error, &source, forward.line));
        }
        let request = Request { bridge, build, source, loader, ignore };
        match question::asked(&request.build.options)? {
            Some(question) => request.answer(question).await,
            None => request.build().await,
        }
    }
}

/// A request whose file is there.
struct Request {
    bridge: Arc<dyn Bridge>,
    build: BuildRequest,
    source: Source,
    loader: Loader,
    /// The patterns of `<Dockerfile>.dockerignore`, if there is one.
    ignore: Option<Vec<String>>,
}

/// What the platforms of one request share.
struct Shared {
    bridge: Arc<dyn Bridge>,
    build: BuildRequest,
    source: Source,
    parsed: Arc<Parsed>,
    loader: Loader,
    lint: Linter,
    /// The patterns of `<Dockerfile>.dockerignore`, if there is one.
    ignore: Option<Vec<String>>,
}

/// What one platform's part of a request became.
struct Compiled {
    lowered: LoweredStage,
    definition: Definition,
    scans: Vec<ScanTarget>,
}

impl Request {
    /// What is to be checked. Errors: nobody can tell from what is written.
    fn linter(&self) -> Result<Linter, BuildError> {
        // Mistakes in directives are told when the file is parsed, with their lines.
        let directives = parse::directives(&self.source.info.data).unwrap_or_default();
        let config = LintConfig::of(&self.build.options, directives.check.as_deref());
        config.map(Linter::new).map_err(|error| error.into_build_error(&self.source))
    }

    async fn parse(&self, lint: &Linter) -> Result<Parsed, BuildError> {
        let (source, lint) = (self.source.clone(), lint.clone());
        let parsed = off_runtime(move || parse::parse(&source.info.data, &lint)).await?;
        parsed.map_err(|error| error.into_build_error(&self.source))
    }

    /// The same where findings are told to the client.
    async fn parse_and_warn(self) -> Result<Shared, BuildError> {
        let lint = self.linter()?;
        let parsed = self.parse(&lint).await;
        warn(&*self.bridge, &self.source, &lint).await?;
        Ok(self.share(parsed?, lint))
    }

    fn share(self, parsed: Parsed, lint: Linter) -> Shared {
        let Self { bridge, build, source, loader, ignore } = self;
        Shared { bridge, build, source, parsed: Arc::new(parsed), loader, lint, ignore }
    }

    async fn build(self) -> Result<FrontendResult, BuildError> {
        self.parse_and_warn().await?.build().await
    }
}

impl Shared {
    async fn build(&self) -> Result<FrontendResult, BuildError> {
        let compiled = self.compile().await;
        warn(&*self.bridge, &self.source, &self.lint).await?;
        let finished =
            compiled?.into_iter().zip(&self.build.platforms).map(|(lowered, options)| async move {
                let Compiled { lowered, definition, scans } = lowered;
                let reference = result::solve(&*self.bridge, definition).await?;
                let platform = options.target_platform.clone();
                Ok::<_, BuildError>(result::Platformed { platform, lowered, reference, scans })
            });
        result::assemble(try_join_all(finished).await?, &self.build)
    }

    /// Compiles all platforms; the file is checked for the first one.
    async fn compile(&self) -> Result<Vec<Compiled>, BuildError> {
        let silent = Linter::off();
        let lint = |index| if index == 0 { &self.lint } else { &silent };
        let platforms = self.build.platforms.iter().enumerate();
        let plans = platforms.map(|(index, options)| self.plan(options, lint(index), false));
        let context = self.loader.context(&self.build, self.ignore.clone());
        let (plans, context) = try_join(try_join_all(plans), context).await?;
        let lowered = plans.into_iter().zip(&self.build.platforms).enumerate();
        let lowered =
            lowered.map(|(index, (plan, options))| self.lower(plan, options, &context, lint(index)));
        // A mistake for one platform is told before anything runs for another.
        let lowered = try_join_all(lowered).await?;
        match self.lint.violation() {
            Some(error) => Err(self.located(error)),
            None => Ok(lowered),
        }
    }

    fn located(&self, error: CompileError) -> BuildError {
        error.into_build_error(&self.source)
    }

    /// Plans one platform and finds out all that it needs to know. `whole`: of all stages.
    async fn plan(&self, options: &CompileOptions, lint: &Linter, whole: bool) -> Result<Plan, BuildError> {
        let names = self.build.contexts.iter().map(|context| context.name.clone()).collect();
        let (parsed, own_options, lint_of_plan) = (self.parsed.clone(), options.clone(), lint.clone());
        let plan = off_runtime(move || Plan::new(&parsed, &own_options, names, &lint_of_plan)).await?;
        let mut plan = plan.map_err(|e| self.located(e))?;
        if whole {
            plan.look_at_all();
        }
        loop {
            let missing = plan.missing().map_err(|e| self.located(e))?;
            if missing.is_empty() {
                return Ok(plan);
            }
            let resolved = stream::iter(missing).map(|need| async move {
                let image = self.resolve(&need, options).await.map_err(|error| match need.lines {
                    Some(lines) => self.located(CompileError::from(error).or_at(lines).word(need.written())),
                    None => error,
                })?;
                Ok::<_, BuildError>((need.stages, Arc::new(image)))
            });
            let resolved: Vec<_> = resolved.buffered(MAX_RESOLVING).try_collect().await?;
            for (stages, image) in resolved {
                for stage in stages {
                    check_platform(lint, &plan, stage, &image);
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
        lint: &Linter,
    ) -> Result<Compiled, BuildError> {
        let (source, options, context) = (self.source.clone(), options.clone(), context.clone());
        let lint = lint.clone();
        let lowered = off_runtime(move || {
            let lowered = lower(&plan, &source, &options, &context, &lint)?;
            let definition = result::definition(&lowered, &options)?;
            let scans = result::scans(&lowered, &options)?;
            Ok(Compiled { lowered, definition, scans })
        });
        lowered.await?.map_err(|e| self.located(e))
    }
}

/// Runs what takes long for large files, without holding up those whom this thread serves as well.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BuildError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| BuildError::new(ErrorCode::Internal, format!("compiling the Dockerfile: {error}")))
}

/// An image that is not what the stage asked for; an empty one is for everybody.
fn check_platform(lint: &Linter, plan: &Plan, stage: StageId, image: &BaseImage) {
    let stage = &plan.stages[stage];
    if let (Some(config), BaseFiles::Image(_), Some(lines)) = (&image.config, &image.files, stage.lines)
        && !lower::is_empty(config)
    {
        lint::check_image_platform(lint, &stage.base_name, config, &stage.platform, lines);
    }
}

/// Tells of new findings.
async fn warn(bridge: &dyn Bridge, source: &Source, lint: &Linter) -> Result<(), BuildError> {
    for finding in lint.take() {
        bridge.warn(finding.into_warning(source)).await?;
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
