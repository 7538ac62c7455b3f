//! The HTTP/2 server on the tunnel.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rbuild_api::grpc::health::v1::health_check_response::ServingStatus;
use rbuild_api::grpc::health::v1::health_server::{Health, HealthServer};
use rbuild_api::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use tokio::sync::oneshot;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::tunnel::{CONNECTION_WINDOW, MAX_FRAME, OwnedTasks, STREAM_WINDOW, TunnelIo};
use crate::{Result, SessionError};

/// Calls a daemon may have open at a time: builds of many steps ask for credentials and files at once.
const MAX_CALLS: u32 = 1024;

/// A stream whose source is given later: the connection starts before the daemon has answered.
pub(super) fn inlet<S>() -> (oneshot::Sender<S>, impl Stream<Item = io::Result<Bytes>> + Send + 'static)
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel::<S>();
    let stream = async move {
        match receiver.await {
            Ok(stream) => stream.left_stream(),
            Err(_) => futures::stream::empty().right_stream(),
        }
    };
    (sender, stream.flatten_stream())
}

/// Serves one connection until it ends.
pub(super) async fn connection(io: TunnelIo, routes: Routes, tasks: OwnedTasks) -> Result<()> {
    let served = hyper::server::conn::http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_CALLS)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(routes))
        .await;
    // A peer that hangs up without a word is how sessions end.
    match served {
        Err(err) if !err.is_incomplete_message() && !err.is_closed() && !hung_up(&err) => {
            Err(SessionError::io("session", io::Error::other(err)))
        }
        _ => Ok(()),
    }
}

fn is_end(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

fn hung_up(err: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(err);
    while let Some(err) = cause {
        if err.downcast_ref::<io::Error>().is_some_and(|err| is_end(err.kind())) {
            return true;
        }
        cause = err.source();
    }
    false
}

#[derive(Debug)]
pub(super) struct Alive;

pub(super) fn health() -> HealthServer<Alive> {
    HealthServer::new(Alive)
}

#[tonic::async_trait]
impl Health for Alive {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> std::result::Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving as i32 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = std::result::Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> std::result::Result<Response<Self::WatchStream>, Status> {
        let alive = HealthCheckResponse { status: ServingStatus::Serving as i32 };
        let once = futures::stream::once(async move { Ok(alive) });
        Ok(Response::new(once.chain(futures::stream::pending()).boxed()))
    }
}
