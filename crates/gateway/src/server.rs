use std::pin::Pin;
use std::sync::Arc;

use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridge;
use rbuild_api::moby::buildkit::v1::types::WorkerRecord;
use rbuild_frontend::{BuildError, ErrorCode, FileRange, SharedRef};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::status::to_driver;
use crate::{ForwardedBuild, ForwardedBuilds, caps, container, convert, from_rpc_status, to_status};

/// Names the build in the metadata of each call. Source: protocol notes, "Gateway".
const BUILD_ID_KEY: &str = "buildkit-controlapi-buildid";
/// A reply must fit into one gRPC message of 16 MiB with room for the envelope.
const MAX_READ: u64 = 15 << 20;

/// Workers as `Ping` lists them.
pub type WorkerInfo = Vec<WorkerRecord>;

/// Whose calls they are.
#[derive(Debug)]
enum Callers {
    /// Of clients that name their build.
    Any(Arc<ForwardedBuilds>),
    /// Of the frontend of one build, on a connection of its own. What it says about build ids does not matter.
    One(Arc<ForwardedBuild>),
}

/// Serves `moby.buildkit.v1.frontend.LLBBridge` to clients that drive a build themselves, and to frontends that are
/// images.
#[derive(Debug)]
pub struct BridgeService {
    callers: Callers,
    workers: WorkerInfo,
}

impl BridgeService {
    /// A service over the builds that wait for calls.
    pub fn new(builds: Arc<ForwardedBuilds>, workers: WorkerInfo) -> Self {
        Self { callers: Callers::Any(builds), workers }
    }

    /// A service for the frontend of one build.
    pub(crate) fn for_build(build: Arc<ForwardedBuild>, workers: WorkerInfo) -> Self {
        Self { callers: Callers::One(build), workers }
    }

    async fn build<T>(&self, request: &Request<T>) -> Result<Arc<ForwardedBuild>, Status> {
        let builds = match &self.callers {
            Callers::Any(builds) => builds,
            Callers::One(build) => return Ok(build.clone()),
        };
        let id = request.metadata().get(BUILD_ID_KEY).and_then(|value| value.to_str().ok());
        let id = id
            .ok_or_else(|| Status::invalid_argument(format!("no `{BUILD_ID_KEY}` in the call's metadata")))?;
        let id = id.to_owned();
        let found = builds.find(&id).await;
        found.ok_or_else(|| Status::not_found(format!("no such job {id}")))
    }

    async fn reference<T>(
        &self,
        request: &Request<T>,
        id: &str,
    ) -> Result<(Arc<ForwardedBuild>, SharedRef), Status> {
        let build = self.build(request).await?;
        let found = build.reference(id).map_err(|err| to_status(&err))?;
        let found = found.ok_or_else(|| Status::not_found("the reference is scratch: it holds no files"))?;
        Ok((build, found))
    }
}

impl BridgeService {
    /// A mount of a container of the caller's build.
    async fn mounted<T>(
        &self,
        request: &Request<T>,
        container: &str,
        index: i32,
    ) -> Result<SharedRef, Status> {
        let (container, _) =
            self.build(request).await?.container(container).map_err(|err| to_status(&err))?;
        let index = usize::try_from(index)
            .map_err(|_| Status::invalid_argument(format!("there is no mount {index}")))?;
        container.mounted(index).map_err(|err| to_status(&err))
    }
}

fn no_mount(index: i32) -> Result<(), Status> {
    if index == 0 {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("a result has no mount {index}: only containers have mounts")))
}

fn reply<T>(result: Result<T, BuildError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|err| to_status(&err))
}

/// As [`reply`], where steps may have run.
fn solved<T>(build: &ForwardedBuild, result: Result<T, BuildError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|err| to_driver(build, &err))
}

async fn read_file(
    file: SharedRef,
    request: wire::ReadFileRequest,
) -> Result<wire::ReadFileResponse, BuildError> {
    let range = match request.range {
        None => None,
        Some(range) => {
            let invalid = |_| BuildError::invalid("read file: a range must not be negative");
            Some(FileRange {
                offset: u64::try_from(range.offset).map_err(invalid)?,
                length: u64::try_from(range.length).map_err(invalid)?,
            })
        }
    };
    if range.is_none_or(|range| range.length == 0 || range.length > MAX_READ) {
        let size = file.stat_file(&request.file_path).await?.size;
        let wanted = size.saturating_sub(range.map_or(0, |range| range.offset));
        if wanted > MAX_READ {
            let text = format!("{} is {size} bytes: read at most {MAX_READ} at a time", request.file_path);
            return Err(BuildError::new(ErrorCode::ResourceExhausted, text));
        }
    }
    Ok(wire::ReadFileResponse { data: file.read_file(&request.file_path, range).await? })
}

async fn read_dir(
    dir: SharedRef,
    request: wire::ReadDirRequest,
) -> Result<wire::ReadDirResponse, BuildError> {
    let entries = dir.read_dir(&request.dir_path, &request.include_pattern).await?;
    Ok(wire::ReadDirResponse { entries: entries.into_iter().map(convert::dir_entry).collect() })
}

async fn stat_file(
    file: SharedRef,
    request: wire::StatFileRequest,
) -> Result<wire::StatFileResponse, BuildError> {
    let entry = file.stat_file(&request.path).await?;
    Ok(wire::StatFileResponse { stat: Some(convert::dir_entry(entry)) })
}

#[tonic::async_trait]
impl LlbBridge for BridgeService {
    async fn ping(
        &self,
        request: Request<wire::PingRequest>,
    ) -> Result<Response<wire::PongResponse>, Status> {
        self.build(&request).await?;
        Ok(Response::new(wire::PongResponse {
            frontend_api_caps: caps::frontend_caps(),
            llb_caps: caps::llb_caps(),
            workers: self.workers.clone(),
        }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
        let build = self.build(&request).await?;
        let query = convert::image_query(request.into_inner()).map_err(|err| to_status(&err))?;
        reply(build.bridge().resolve_image(query).await.map(|meta| wire::ResolveImageConfigResponse {
            digest: meta.digest.to_string(),
            config: meta.config,
            r#ref: meta.reference,
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<wire::ResolveSourceMetaRequest>,
    ) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
        let build = self.build(&request).await?;
        let query = convert::source_query(request.into_inner()).map_err(|err| to_status(&err))?;
        reply(build.bridge().resolve_source(query).await.map(convert::source_meta))
    }

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let build = self.build(&request).await?;
        let request = request.into_inner();
        let arrays = request.allow_result_array_ref;
        build.check_room().map_err(|err| to_status(&err))?;
        let request = convert::solve_request(request).map_err(|err| to_status(&err))?;
        let result = build.bridge().solve(request).await;
        solved(
            &build,
            result.map(|result| wire::SolveResponse {
                r#ref: String::new(),
                result: Some(convert::result_to_wire(&build, result, arrays)),
            }),
        )
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let (build, file) = self.reference(&request, &request.get_ref().r#ref).await?;
        let request = request.into_inner();
        no_mount(request.mount_index)?;
        solved(&build, read_file(file, request).await)
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let (build, dir) = self.reference(&request, &request.get_ref().r#ref).await?;
        let request = request.into_inner();
        no_mount(request.mount_index)?;
        solved(&build, read_dir(dir, request).await)
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let (build, file) = self.reference(&request, &request.get_ref().r#ref).await?;
        let request = request.into_inner();
        no_mount(request.mount_index)?;
        solved(&build, stat_file(file, request).await)
    }

    async fn evaluate(
        &self,
        request: Request<wire::EvaluateRequest>,
    ) -> Result<Response<wire::EvaluateResponse>, Status> {
        let build = self.build(&request).await?;
        let found = build.reference(&request.get_ref().r#ref).map_err(|err| to_status(&err))?;
        if let Some(reference) = found {
            reference.evaluate().await.map_err(|err| to_driver(&build, &err))?;
        }
        Ok(Response::new(wire::EvaluateResponse {}))
    }

    async fn r#return(
        &self,
        request: Request<wire::ReturnRequest>,
    ) -> Result<Response<wire::ReturnResponse>, Status> {
        let build = self.build(&request).await?;
        let request = request.into_inner();
        let outcome = match request.error {
            Some(error) => Err(from_rpc_status(error)),
            None => convert::result_from_wire(&build, request.result.unwrap_or_default()),
        };
        reply(build.finish(outcome).map(|()| wire::ReturnResponse {}))
    }

    async fn inputs(
        &self,
        request: Request<wire::InputsRequest>,
    ) -> Result<Response<wire::InputsResponse>, Status> {
        let build = self.build(&request).await?;
        let inputs = build.bridge().inputs();
        let definitions =
            inputs.into_iter().map(|(name, def)| (name, convert::definition_to_wire(&def))).collect();
        Ok(Response::new(wire::InputsResponse { definitions }))
    }

    async fn new_container(
        &self,
        request: Request<wire::NewContainerRequest>,
    ) -> Result<Response<wire::NewContainerResponse>, Status> {
        let build = self.build(&request).await?;
        let wire = request.into_inner();
        let id = wire.container_id.clone();
        let opened = async {
            container::check_id(&id)?;
            let request = container::request(&build, wire)?;
            build.keep_container(&id, build.bridge().new_container(request).await?)
        };
        solved(&build, opened.await.map(|()| wire::NewContainerResponse {}))
    }

    async fn release_container(
        &self,
        request: Request<wire::ReleaseContainerRequest>,
    ) -> Result<Response<wire::ReleaseContainerResponse>, Status> {
        let build = self.build(&request).await?;
        let released = build.release_container(&request.get_ref().container_id);
        reply(released.map(|()| wire::ReleaseContainerResponse {}))
    }

    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<wire::ExecMessage, Status>> + Send>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<wire::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let build = self.build(&request).await?;
        Ok(Response::new(container::serve(build, request.into_inner())))
    }

    async fn read_file_container(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let (id, index) = (&request.get_ref().r#ref, request.get_ref().mount_index);
        let file = self.mounted(&request, id, index).await?;
        reply(read_file(file, request.into_inner()).await)
    }

    async fn read_dir_container(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let (id, index) = (&request.get_ref().r#ref, request.get_ref().mount_index);
        let dir = self.mounted(&request, id, index).await?;
        reply(read_dir(dir, request.into_inner()).await)
    }

    async fn stat_file_container(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let (id, index) = (&request.get_ref().r#ref, request.get_ref().mount_index);
        let file = self.mounted(&request, id, index).await?;
        reply(stat_file(file, request.into_inner()).await)
    }

    async fn warn(
        &self,
        request: Request<wire::WarnRequest>,
    ) -> Result<Response<wire::WarnResponse>, Status> {
        let build = self.build(&request).await?;
        let warning = convert::warning(request.into_inner()).map_err(|err| to_status(&err))?;
        reply(build.bridge().warn(warning).await.map(|()| wire::WarnResponse {}))
    }
}
