//! The frontend `dockerfile.v0`: reads the file, resolves what it names and hands definitions to the daemon.

mod images;
mod load;
mod named;
mod request;
mod result;
mod syntax;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use rbuild_frontend::{Bridge, BuildError, Detail, ErrorCode, Frontend, FrontendRequest, FrontendResult, Warning};
use rbuild_oci::Platform;

use crate::compile::Lowerable;
use crate::context::BuildContext;
use crate::lower::LoweredStage;
use crate::parse::{self, Parsed};
use crate::plan::Plan;
use crate::source::Source;
use crate::{CompileError, CompileOptions};
use load::Loader;
use request::BuildRequest;

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
        let loader = Loader::new(bridge.clone(), &build);
        let (source, ignore) = loader.dockerfile().await?;
        if let Some(forward) = syntax::forward(&build, &source) {
            let result = bridge.solve(forward.request).await;
            return result.map_err(|error| syntax::locate(error, &source, forward.line));
        }
        let parsed = parse::parse(&source.info.data).map_err(|error| error.into_build_error(&source))?;
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
    parsed: Parsed,
    loader: Loader,
    /// The patterns of `<Dockerfile>.dockerignore`, if there is one.
    ignore: Option<Vec<String>>,
}

impl Shared {
    async fn build(&self) -> Result<FrontendResult, BuildError> {
        let compiles = self.build.platforms.iter().map(|options| self.compile(options));
        let compiled = try_join_all(compiles).await?;
        let finished = compiled.into_iter().zip(&self.build.platforms).map(|(lowered, options)| async move {
            let definition = result::definition(&lowered, options).map_err(|e| e.into_build_error(&self.source))?;
            let reference = result::solve(&*self.bridge, definition).await?;
            Ok::<_, BuildError>(result::Platformed { platform: options.target_platform.clone(), lowered, reference })
        });
        result::assemble(try_join_all(finished).await?, &self.build)
    }

    /// Compiles for one platform.
    async fn compile(&self, options: &CompileOptions) -> Result<LoweredStage, BuildError> {
        let located = |error: CompileError| error.into_build_error(&self.source);
        let names = self.build.contexts.iter().map(|context| context.name.clone()).collect();
        let mut plan = Plan::new(&self.parsed, options, names).map_err(located)?;
        loop {
            let missing = plan.missing().map_err(located)?;
            if missing.is_empty() {
                break;
            }
            let resolved = try_join_all(missing.into_iter().map(|need| async move {
                let image = self.resolve(&need, options).await.map_err(|error| match need.lines {
                    Some(lines) => located(CompileError::from(error).or_at(lines)),
                    None => error,
                })?;
                Ok::<_, BuildError>((need.stage, image))
            }))
            .await?;
            for (stage, image) in resolved {
                plan.provide(stage, image).map_err(located)?;
            }
        }
        let lowering = Lowerable { plan: &plan, source: &self.source, options };
        let context = if lowering.uses_context().map_err(located)? {
            self.loader.context(&self.build, self.ignore.clone()).await?
        } else {
            BuildContext::unused()
        };
        lowering.lower(&context).map_err(located)
    }
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
