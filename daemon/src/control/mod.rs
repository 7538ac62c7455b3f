//! The Control service: a file per group of calls. Handlers convert and delegate; nothing is decided here.

mod content;
mod disk;
mod explain;
mod history;
mod history_filter;
mod images;
mod session;
mod settings;
mod solve;
mod workers;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use rbuild_api::grpc::health::v1::health_check_response::ServingStatus;
use rbuild_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, health_server};
use rbuild_api::moby::buildkit::v1 as wire;
use rbuild_api::moby::buildkit::v1::control_server::Control;
use rbuild_build::{Builder, TraceContext};
use rbuild_frontend::BuildError;
use rbuild_gateway::{ForwardedBuilds, to_status};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::config::Config;

pub(crate) use settings::{builder_options, image_frontend};
pub(crate) use workers::worker_record;

type Reply<T> = Result<Response<T>, Status>;
type ReplyStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `moby.buildkit.v1.Control`.
#[derive(Debug, Clone)]
pub(crate) struct ControlService {
    builder: Arc<Builder>,
    forwarded: Arc<ForwardedBuilds>,
    workers: Arc<Vec<wire::types::WorkerRecord>>,
}

impl ControlService {
    pub(crate) fn new(builder: Arc<Builder>, forwarded: Arc<ForwardedBuilds>, config: &Config) -> Self {
        let workers = Arc::new(vec![worker_record(&builder, config)]);
        Self { builder, forwarded, workers }
    }
}

/// Milliseconds since 1970 on the wire.
fn timestamp(millis: i64) -> Option<prost_types::Timestamp> {
    let nanos = i32::try_from(millis.rem_euclid(1_000) * 1_000_000).unwrap_or(0);
    Some(prost_types::Timestamp { seconds: millis.div_euclid(1_000), nanos })
}

/// The caller's place in its trace, if it says so.
fn traceparent(metadata: &MetadataMap) -> Option<TraceContext> {
    TraceContext::parse(metadata.get("traceparent")?.to_str().ok()?)
}

fn refuse(error: &BuildError) -> Status {
    to_status(error)
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn disk_usage(&self, request: Request<wire::DiskUsageRequest>) -> Reply<wire::DiskUsageResponse> {
        disk::usage(self, request.into_inner()).await
    }

    type PruneStream = ReplyStream<wire::UsageRecord>;

    async fn prune(&self, request: Request<wire::PruneRequest>) -> Reply<Self::PruneStream> {
        disk::prune(self, request.into_inner()).await
    }

    async fn solve(&self, request: Request<wire::SolveRequest>) -> Reply<wire::SolveResponse> {
        let trace = traceparent(request.metadata());
        solve::solve(self, request.into_inner(), trace).await
    }

    type StatusStream = ReplyStream<wire::StatusResponse>;

    async fn status(&self, request: Request<wire::StatusRequest>) -> Reply<Self::StatusStream> {
        solve::status(self, request.into_inner()).await
    }

    type SessionStream = ReplyStream<wire::BytesMessage>;

    async fn session(&self, request: Request<Streaming<wire::BytesMessage>>) -> Reply<Self::SessionStream> {
        session::session(self, request).await
    }

    async fn list_workers(
        &self,
        request: Request<wire::ListWorkersRequest>,
    ) -> Reply<wire::ListWorkersResponse> {
        workers::list(self, request.into_inner())
    }

    async fn info(&self, _request: Request<wire::InfoRequest>) -> Reply<wire::InfoResponse> {
        Ok(Response::new(wire::InfoResponse { buildkit_version: Some(workers::version()) }))
    }

    type ListenBuildHistoryStream = ReplyStream<wire::BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        request: Request<wire::BuildHistoryRequest>,
    ) -> Reply<Self::ListenBuildHistoryStream> {
        history::listen(self, request.into_inner())
    }

    async fn update_build_history(
        &self,
        request: Request<wire::UpdateBuildHistoryRequest>,
    ) -> Reply<wire::UpdateBuildHistoryResponse> {
        history::update(self, request.into_inner()).await
    }
}

/// Serves `grpc.health.v1.Health`: whoever gets an answer at all is served.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Health;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, _request: Request<HealthCheckRequest>) -> Reply<HealthCheckResponse> {
        Ok(Response::new(serving()))
    }

    type WatchStream = ReplyStream<HealthCheckResponse>;

    async fn watch(&self, _request: Request<HealthCheckRequest>) -> Reply<Self::WatchStream> {
        // The state never changes while the connection lives, so the stream stays open without another word.
        let first = futures::stream::once(async { Ok(serving()) });
        Ok(Response::new(Box::pin(futures::StreamExt::chain(first, futures::stream::pending()))))
    }
}
