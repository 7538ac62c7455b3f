//! Metrics for Prometheus, over plain HTTP on an address of their own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use rbuild_build::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at once. Prometheus has one; a stranger must not use up our descriptors.
const MAX_CONNECTIONS: usize = 16;
/// A connection that asks nothing for this long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// What is served. Source: the exposition format of OpenMetrics, which Prometheus reads.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    let host = address.strip_prefix("tcp://").unwrap_or(address);
    TcpListener::bind(host).await.with_context(|| format!("serving metrics at {address}"))
}

/// Serves until `goodbye`.
pub(crate) async fn serve(
    listener: TcpListener,
    builder: Arc<Builder>,
    goodbye: CancellationToken,
) -> anyhow::Result<()> {
    tracing::info!("metrics at http://{}/metrics", listener.local_addr()?);
    let started = SystemTime::now();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = goodbye.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(answer(stream, builder.clone(), started))),
                Err(error) => tracing::debug!(%error, "accepting a reader of metrics"),
            }
        }
    }
}

async fn answer(stream: TcpStream, builder: Arc<Builder>, started: SystemTime) {
    let service = service_fn(move |request: Request<Incoming>| {
        let builder = builder.clone();
        async move { Ok::<_, Infallible>(respond(&request, &builder, started)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a reader of metrics");
    }
}

fn respond(request: &Request<Incoming>, builder: &Builder, started: SystemTime) -> Response<String> {
    let plain = |status: StatusCode, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is /metrics only\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read\n");
    }
    let mut registry = Registry::default();
    builder.metrics().register(&mut registry);
    process(&mut registry, started);
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n");
    }
    let mut response = Response::new(text);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// What all programs tell of themselves, under the usual names. What the system does not tell is left out.
fn process(registry: &mut Registry, started: SystemTime) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<i64>().ok()
    };
    if let Some(kib) = field("VmRSS") {
        let help = "Memory that the daemon holds";
        let bytes = ConstGauge::new(kib.saturating_mul(1024));
        registry.register_with_unit("process_resident_memory", help, Unit::Bytes, bytes);
    }
    if let Some(threads) = field("Threads") {
        registry.register("process_threads", "Threads of the daemon", ConstGauge::new(threads));
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        let count = i64::try_from(descriptors.count()).unwrap_or(i64::MAX);
        registry.register("process_open_fds", "Open files of the daemon", ConstGauge::new(count));
    }
    if let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) {
        let time = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let seconds = ConstCounter::new(time(usage.user_time()) + time(usage.system_time()));
        registry.register_with_unit("process_cpu", "Processor time of the daemon", Unit::Seconds, seconds);
    }
    if let Ok(since) = started.duration_since(UNIX_EPOCH) {
        let help = "When the daemon started, in seconds since 1970";
        let seconds = ConstGauge::new(since.as_secs_f64());
        registry.register_with_unit("process_start_time", help, Unit::Seconds, seconds);
    }
}
