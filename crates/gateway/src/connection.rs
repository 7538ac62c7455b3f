//! One gRPC connection over a pair of pipes: what a frontend in a container speaks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rbuild_api::grpc::health::v1::health_check_response::ServingStatus;
use rbuild_api::grpc::health::v1::health_server::{Health, HealthServer};
use rbuild_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridgeServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::BridgeService;

/// Upstream's limit for one message, both ways. Source: protocol notes, "Connections".
const MAX_MESSAGE: usize = 16 << 20;
/// Calls that one frontend may have open: it asks for the stages of a build at once.
const MAX_CALLS: u32 = 256;

/// Serves the bridge until the other side hangs up or breaks the protocol. Cancel: drop the future; calls that are
/// under way end with it.
pub(crate) async fn serve<T>(service: BridgeService, io: T) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let bridge = LlbBridgeServer::from_arc(Arc::new(service))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let routes = Routes::new(bridge).add_service(HealthServer::new(Alive));
    let tasks = OwnedTasks { tracker: TaskTracker::new(), token: CancellationToken::new() };
    let _guard = tasks.token.clone().drop_guard();
    hyper::server::conn::http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(routes))
        .await
        .map_err(io::Error::other)
}

/// Runs a connection's tasks so that they have an owner: all end when the token is cancelled.
#[derive(Clone, Debug)]
struct OwnedTasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for OwnedTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.tracker.spawn(self.token.clone().run_until_cancelled_owned(task));
    }
}

/// Whoever gets an answer at all is served.
#[derive(Debug)]
struct Alive;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

#[tonic::async_trait]
impl Health for Alive {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let once = futures::stream::once(async { Ok(serving()) });
        Ok(Response::new(once.chain(futures::stream::pending()).boxed()))
    }
}
