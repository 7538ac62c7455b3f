//! [`ImageFrontend`]: frontends that are images (`gateway.v0`).
//!
//! The image's entrypoint runs in the sandbox of steps and speaks gRPC over its standard streams: it is the client, its
//! build's bridge the server. What it is told beside that is in its environment, see [`contract`]. It ends its build by
//! `Return`, and then itself.

mod contract;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use rbuild_frontend::{
    Bridge, BuildError, ErrorCode, Frontend, FrontendProcess, FrontendRequest, FrontendResult, ImageMeta,
    ImageQuery, ResolveMode, ResultRefs, SharedRef, SolveRequest,
};
use rbuild_llb::{Constraints, ImageOptions, MarshalOptions, State};
use rbuild_oci::{ImageConfig, ImageRef};
use tokio::sync::oneshot;

use self::contract::Contract;
use crate::forward::Outcome;
use crate::{BridgeService, ForwardedBuild, WorkerInfo, connection};

/// Bytes on their way to or from a frontend, each way.
const PIPE: usize = 256 << 10;
/// How long a frontend that is done with its build, or whose connection is broken, may take to end.
const GOODBYE: Duration = Duration::from_secs(10);

/// Which images may be frontends.
#[derive(Debug, Clone)]
pub struct ImageFrontendOptions {
    /// Repositories that the daemon's own Dockerfile frontend stands in for: `docker.io/docker/dockerfile`…
    pub built_in: Vec<String>,
    /// Repositories whose images may be run; empty: all.
    pub allowed: Vec<String>,
}

/// Runs the image that the option `source` names.
#[derive(Debug)]
pub struct ImageFrontend {
    options: ImageFrontendOptions,
    workers: OnceLock<WorkerInfo>,
}

impl ImageFrontend {
    /// A frontend that runs images.
    pub fn new(options: ImageFrontendOptions) -> Self {
        Self { options, workers: OnceLock::new() }
    }

    /// What frontends are told of the daemon's workers. Only the first call counts.
    pub fn set_workers(&self, workers: WorkerInfo) {
        if self.workers.set(workers).is_err() {
            tracing::debug!("frontends know the workers already");
        }
    }

    fn workers(&self) -> WorkerInfo {
        self.workers.get().cloned().unwrap_or_default()
    }

    fn check_allowed(&self, name: &ImageRef) -> Result<(), BuildError> {
        let repository = name.repository();
        if self.options.allowed.is_empty() || self.options.allowed.contains(&repository) {
            return Ok(());
        }
        let text = format!("'{repository}' is not an allowed gateway source");
        let hint = "the configuration of rbuildd lists which images may be frontends: allowedRepositories";
        Err(BuildError::new(ErrorCode::PermissionDenied, text).hint(hint))
    }
}

#[async_trait]
impl Frontend for ImageFrontend {
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError> {
        if request.options.contains_key("gateway-devel") {
            return Err(BuildError::unimplemented(
                "the option `gateway-devel` is not supported by rbuildd: push the frontend's image and name it by `source`",
            ));
        }
        let source = request.options.get("source").filter(|source| !source.is_empty());
        let source = source.ok_or_else(|| {
            BuildError::invalid(
                "the frontend gateway.v0 needs the option `source`: the image that is the frontend",
            )
        })?;
        let name = ImageRef::parse(source)
            .map_err(|err| BuildError::invalid(format!("the frontend's image `{source}`: {err}")))?
            .tag_or_latest();
        if self.options.built_in.contains(&name.repository()) {
            return built_in(&*bridge, request).await;
        }
        self.check_allowed(&name)?;
        let image = resolve(&*bridge, &name).await?;
        let config = ImageConfig::parse(&image.config)
            .map_err(|err| BuildError::invalid(format!("the frontend {name}: its image's config: {err}")))?;
        let contract = Contract::new(&config, &request, &self.workers())?;
        let root = files(&*bridge, &image).await?;
        self.run(bridge, root, contract, &name.to_string()).await
    }
}

/// The Dockerfile frontend that is in the daemon. It is told that it is the one asked for, so it asks nobody else.
async fn built_in(bridge: &dyn Bridge, request: FrontendRequest) -> Result<FrontendResult, BuildError> {
    let FrontendRequest { mut options, inputs, .. } = request;
    let source = options.get("source").cloned().unwrap_or_default();
    options.entry("cmdline".to_owned()).or_insert(source);
    bridge
        .solve(SolveRequest { frontend: "dockerfile.v0".into(), options, inputs, ..SolveRequest::default() })
        .await
}

async fn resolve(bridge: &dyn Bridge, name: &ImageRef) -> Result<ImageMeta, BuildError> {
    let query = ImageQuery {
        reference: name.to_string(),
        platform: bridge.platforms().into_iter().next(),
        mode: ResolveMode::Default,
        log_name: format!("resolve image config for docker-image://{name}"),
        want_config: true,
        oci_layout: None,
        policies: Vec::new(),
    };
    bridge.resolve_image(query).await
}

/// The image's files; nothing is pulled yet.
async fn files(bridge: &dyn Bridge, image: &ImageMeta) -> Result<SharedRef, BuildError> {
    let platform = bridge.platforms().into_iter().next();
    let constraints = Constraints { platform: platform.clone(), ..Constraints::default() };
    let options = ImageOptions { record_type: "frontend".into(), constraints, ..ImageOptions::default() };
    let unusable = |err: rbuild_llb::LlbError| BuildError::invalid(format!("the frontend's image: {err}"));
    let state = State::image(&image.reference, options).map_err(unusable)?;
    let mut marshal = MarshalOptions::default();
    if let Some(platform) = platform {
        marshal.platform = platform;
    }
    let definition = state.marshal(&marshal).map_err(unusable)?;
    let request = SolveRequest { definition: Some(definition), ..SolveRequest::default() };
    match bridge.solve(request).await?.refs {
        ResultRefs::Single(Some(files)) => Ok(files),
        _ => Err(BuildError::invalid("the frontend's image has no files")),
    }
}

impl ImageFrontend {
    async fn run(
        &self,
        bridge: Arc<dyn Bridge>,
        root: SharedRef,
        contract: Contract,
        name: &str,
    ) -> Result<FrontendResult, BuildError> {
        let (build, mut returned) = ForwardedBuild::open(bridge.clone());
        let service = BridgeService::for_build(build, self.workers());
        let (to_frontend, stdin) = tokio::io::duplex(PIPE);
        let (stdout, from_frontend) = tokio::io::duplex(PIPE);
        let serving = connection::serve(service, tokio::io::join(from_frontend, to_frontend));
        let running = bridge.run_process(
            root,
            FrontendProcess {
                args: contract.args,
                env: contract.env,
                cwd: contract.cwd,
                network: contract.network,
                log_name: format!("[frontend] {name}"),
                stdin: Box::pin(stdin),
                stdout: Box::pin(stdout),
            },
        );
        tokio::pin!(serving, running);
        // The build ends when the process does: what it returned is not its last word, it may still fail.
        let ended = tokio::select! {
            exit = &mut running => Ended::Process(exit),
            broken = &mut serving => Ended::Connection(broken),
            outcome = &mut returned => Ended::Returned(outcome),
        };
        let (outcome, exit, broken) = match ended {
            Ended::Process(exit) => (returned.try_recv().ok(), Some(exit), None),
            Ended::Connection(broken) => {
                let exit = tokio::time::timeout(GOODBYE, running).await.ok();
                (returned.try_recv().ok(), exit, broken.err())
            }
            // It has no more to say.
            Ended::Returned(Ok(Err(error))) => return Err(error),
            Ended::Returned(outcome) => {
                // Served on: the frontend waits for the answer to its `Return`.
                let finish = async {
                    tokio::select! {
                        exit = &mut running => exit,
                        _ = &mut serving => running.await,
                    }
                };
                (outcome.ok(), tokio::time::timeout(GOODBYE, finish).await.ok(), None)
            }
        };
        verdict(name, outcome, exit, broken)
    }
}

/// What happened first.
enum Ended {
    Process(Result<u32, BuildError>),
    Connection(std::io::Result<()>),
    Returned(Result<Outcome, oneshot::error::RecvError>),
}

/// An error that the frontend returned comes first, then that of its process, then the result that it returned.
///
/// `exit` is missing if the process did not end in time; it has been killed then.
fn verdict(
    name: &str,
    outcome: Option<Outcome>,
    exit: Option<Result<u32, BuildError>>,
    broken: Option<std::io::Error>,
) -> Result<FrontendResult, BuildError> {
    let failed = |text: String| {
        let text = format!("the frontend {name} {text}");
        Err(BuildError::new(ErrorCode::Unknown, text))
    };
    match (outcome, exit) {
        (Some(Err(error)), _) => Err(error),
        (_, Some(Err(error))) => Err(error.context(format!("the frontend {name}"))),
        (Some(Ok(result)), Some(Ok(0)) | None) => Ok(result),
        (Some(Ok(_)), Some(Ok(code))) => {
            failed(format!("returned a result and then failed: exit code: {code}"))
        }
        (None, Some(Ok(0))) => failed("ended without a result".into()),
        (None, Some(Ok(code))) => failed(format!("did not complete successfully: exit code: {code}")),
        (None, None) => match broken {
            Some(error) => failed(format!("does not speak the frontend protocol: {error}")),
            None => failed("closed its connection without a result".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outcome: Option<Outcome>, exit: Option<Result<u32, BuildError>>) -> String {
        match verdict("a/b:1", outcome, exit, None) {
            Ok(_) => "fine".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_first_failure_is_told_and_a_result_does_not_hide_one() {
        let result = || Some(Ok(FrontendResult::single(None)));
        let refused = || Some(Err(BuildError::invalid("line 3")));
        assert_eq!(text(result(), Some(Ok(0))), "fine");
        assert_eq!(text(result(), None), "fine");
        assert_eq!(text(refused(), Some(Ok(1))), "line 3");
        assert!(text(result(), Some(Ok(2))).ends_with("exit code: 2"));
        assert!(text(None, Some(Ok(0))).ends_with("ended without a result"));
        assert!(text(None, Some(Ok(137))).ends_with("exit code: 137"));
        assert!(text(None, Some(Err(BuildError::invalid("no such file")))).contains("a/b:1: no such file"));
        assert!(text(None, None).contains("closed its connection"));
    }
}
