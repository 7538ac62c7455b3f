//! A build that this side drives itself: calls of `LLBBridge` under the build's id, while `Solve` waits.

use std::collections::BTreeMap;

use prost::Message as _;
use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use tonic::transport::Channel;
use tonic::{Request, Status};

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
