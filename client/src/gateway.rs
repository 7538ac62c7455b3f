//! A build that this side drives itself: calls of `LLBBridge` under the build's id, while `Solve` waits.

use std::collections::BTreeMap;

use prost::Message as _;
use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use rbuild_api::pb;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::MAX_MESSAGE;

/// Names the build in the metadata of each call. Source: protocol notes, "Gateway".
const BUILD_ID_KEY: &str = "buildkit-controlapi-buildid";

/// The calls of one build.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    client: LlbBridgeClient<Channel>,
    id: String,
}

impl Gateway {
    pub(crate) fn new(channel: Channel, id: &str) -> Self {
        let client = LlbBridgeClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self { client, id: id.to_owned() }
    }

    fn call<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        let id = self.id.parse().map_err(|_| Status::internal("the build's id is no header"))?;
        request.metadata_mut().insert(BUILD_ID_KEY, id);
        Ok(request)
    }

    /// Runs a frontend at the daemon and gives what it makes.
    pub(crate) async fn frontend(
        &mut self,
        name: &str,
        options: BTreeMap<String, String>,
    ) -> Result<wire::Result, Status> {
        let request = wire::SolveRequest {
            frontend: name.to_owned(),
            frontend_opt: options,
            allow_result_return: true,
            allow_result_array_ref: true,
            ..Default::default()
        };
        let request = self.call(request)?;
        Ok(self.client.solve(request).await?.into_inner().result.unwrap_or_default())
    }

    /// What an image's name stands for: digest and config.
    pub(crate) async fn image(&mut self, name: &str, mode: &str) -> Result<(String, Vec<u8>), Status> {
        let request = self.call(wire::ResolveImageConfigRequest {
            r#ref: name.to_owned(),
            resolve_mode: mode.to_owned(),
            log_name: format!("[internal] load metadata for {name}"),
            ..Default::default()
        })?;
        let found = self.client.resolve_image_config(request).await?.into_inner();
        Ok((found.digest, found.config))
    }

    /// Computes a definition and gives the id of its result.
    pub(crate) async fn solve(&mut self, definition: pb::Definition) -> Result<String, Status> {
        let request = self.call(wire::SolveRequest {
            definition: Some(definition),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            ..Default::default()
        })?;
        let result = self.client.solve(request).await?.into_inner().result.unwrap_or_default();
        match result.result {
            Some(wire::result::Result::Ref(reference)) => Ok(reference.id),
            Some(wire::result::Result::RefDeprecated(id)) => Ok(id),
            _ => Err(Status::unknown("a definition has more than one result")),
        }
    }

    /// Computes a result.
    pub(crate) async fn evaluate(&mut self, id: &str) -> Result<(), Status> {
        let request = self.call(wire::EvaluateRequest { r#ref: id.to_owned() })?;
        self.client.evaluate(request).await.map(drop)
    }

    /// Prepares mounts for processes.
    pub(crate) async fn new_container(&mut self, container: wire::NewContainerRequest) -> Result<(), Status> {
        let request = self.call(container)?;
        self.client.new_container(request).await.map(drop)
    }

    /// Gives a container up.
    pub(crate) async fn release_container(&mut self, id: &str) -> Result<(), Status> {
        let request = self.call(wire::ReleaseContainerRequest { container_id: id.to_owned() })?;
        self.client.release_container(request).await.map(drop)
    }

    /// Talks to processes.
    pub(crate) async fn exec(
        &mut self,
        messages: ReceiverStream<wire::ExecMessage>,
    ) -> Result<Streaming<wire::ExecMessage>, Status> {
        let request = self.call(messages)?;
        Ok(self.client.exec_process(request).await?.into_inner())
    }

    /// Ends the build.
    pub(crate) async fn finish(&mut self, outcome: Result<wire::Result, Status>) -> Result<(), Status> {
        let request = match outcome {
            Ok(result) => wire::ReturnRequest { result: Some(result), error: None },
            Err(status) => wire::ReturnRequest { result: None, error: Some(rpc_status(&status)) },
        };
        let request = self.call(request)?;
        self.client.r#return(request).await.map(drop)
    }
}

/// The error with its details, as it came.
fn rpc_status(status: &Status) -> RpcStatus {
    let told = RpcStatus::decode(status.details()).ok().filter(|told| told.code == i32::from(status.code()));
    told.unwrap_or_else(|| RpcStatus {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// Asks a frontend a question and returns the answer. What a daemon does not pass on to whoever waits for the build,
/// upstream's keeps answers to itself, comes to whoever drives it.
pub(crate) async fn ask(
    mut gateway: Gateway,
    frontend: String,
    options: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Status> {
    let asked = gateway.frontend(&frontend, options).await;
    let answer = asked.as_ref().map_or_else(
        |_| BTreeMap::new(),
        |result| {
            let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
            result.metadata.iter().map(|(name, value)| (name.clone(), text(value))).collect()
        },
    );
    gateway.finish(asked.clone()).await?;
    asked.map(|_| answer)
}
