//! The daemon's life: open everything, serve, drain, end.

use std::sync::Arc;

use anyhow::Context as _;
use rbuild_api::containerd::services::content::v1::content_server::ContentServer;
use rbuild_api::grpc::health::v1::health_server::HealthServer;
use rbuild_api::moby::buildkit::v1::control_server::ControlServer;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridgeServer;
use rbuild_api::otlp::trace_service_server::TraceServiceServer;
use rbuild_api::rbuild::v1::builds_server::BuildsServer;
use rbuild_api::rbuild::v1::images_server::ImagesServer;
use rbuild_build::Builder;
use rbuild_gateway::{BridgeService, ForwardedBuilds};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::config::{Config, Tls};
use crate::control::{ControlService, Health, worker_record};
use crate::listen::{self, Bound};
use crate::metrics;
use crate::telemetry::Traces;

/// Upstream's limit for one message, both ways. Source: protocol notes, "Connections".
const MAX_MESSAGE: usize = 16 << 20;
/// The default window of 64 KiB caps a stream at a few hundred MB/s even on loopback.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Larger frames mean fewer wake-ups for big transfers; peers negotiate down if they want less.
const MAX_FRAME: u32 = 1 << 20;
/// A client that vanished without closing its connection is noticed within the sum of the two.
const KEEPALIVE_EVERY: std::time::Duration = std::time::Duration::from_secs(20);
const KEEPALIVE_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
/// How long open calls may linger once all builds have ended.
const GOODBYE: std::time::Duration = std::time::Duration::from_millis(500);

/// A daemon whose sockets are bound and whose state is open.
#[derive(Debug)]
pub(crate) struct App {
    config: Config,
    builder: Arc<Builder>,
    forwarded: Arc<ForwardedBuilds>,
    listeners: Vec<Bound>,
    trace_socket: Option<Bound>,
    metrics: Option<TcpListener>,
}

impl App {
    /// Opens the state and binds the sockets: whatever can fail fails here, before anything runs.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
        let image_frontend = crate::control::image_frontend(&config)?;
        let options = crate::control::builder_options(&config, image_frontend.clone())?;
        let root = config.root.clone();
        let opened = tokio::task::spawn_blocking(move || Builder::open(options)).await?;
        let builder = opened.with_context(|| format!("opening the state directory {}", root.display()))?;
        if let Some(frontend) = image_frontend {
            frontend.set_workers(vec![worker_record(&builder, &config)]);
        }
        let listeners = listen::bind_all(&config).await?;
        for listener in &listeners {
            if let Bound::Tcp(_, address) = listener {
                builder.close_address(*address);
            }
        }
        let trace_socket = match &config.trace_socket {
            Some(path) => Some(listen::bind_unix(path, &config).context("binding the trace socket")?),
            None => None,
        };
        let metrics = match &config.metrics_address {
            Some(address) => Some(metrics::bind(address).await?),
            None => None,
        };
        let forwarded = Arc::new(ForwardedBuilds::default());
        Ok(Self { config, builder: Arc::new(builder), forwarded, listeners, trace_socket, metrics })
    }

    /// Serves until SIGTERM or SIGINT, then drains: running builds may finish within the configured time, new
    /// ones are refused. A second signal ends the rest at once.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let goodbye = CancellationToken::new();
        let mut servers = JoinSet::new();
        let service = ControlService::new(self.builder.clone(), self.forwarded.clone(), &self.config);
        let workers = vec![worker_record(&self.builder, &self.config)];
        let traces = Traces(self.builder.tracer().clone());
        let bridge = Arc::new(BridgeService::new(self.forwarded.clone(), workers));
        for listener in self.listeners {
            tracing::info!("listening on {listener}");
            let tls = match &listener {
                Bound::Tcp(..) => self.config.tls.as_ref(),
                Bound::Unix(..) => None,
            };
            let router = router(tls, service.clone(), bridge.clone(), traces.clone())?;
            servers.spawn(serve(router, listener, goodbye.clone()));
        }
        if let Some(socket) = self.trace_socket {
            let router = Server::builder().add_service(TraceServiceServer::new(traces));
            servers.spawn(serve(router, socket, goodbye.clone()));
        }
        if let Some(listener) = self.metrics {
            servers.spawn(metrics::serve(listener, self.builder.clone(), goodbye.clone()));
        }
        let gc = self.builder.start_gc();
        notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(root = %self.config.root.display(), "rbuildd {} is ready", env!("CARGO_PKG_VERSION"));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            outcome = stdin_closed(self.config.until_stdin_closes) => outcome?,
            Some(ended) = servers.join_next() => ended??,
        }
        notify(&[sd_notify::NotifyState::Stopping]);
        let drained = self.builder.drain(self.config.drain);
        tokio::select! {
            () = drained => {}
            _ = terminate.recv() => tracing::warn!("second signal: ending the running builds"),
            _ = interrupt.recv() => tracing::warn!("second signal: ending the running builds"),
        }
        self.builder.stop_builds().await;
        drop(gc);
        // Answers of the last builds still have to reach their clients, which then close their sessions.
        goodbye.cancel();
        let farewell = async { while servers.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, farewell).await.is_err() {
            tracing::debug!("closing calls that are still open");
        }
        self.builder.close().await;
        servers.abort_all();
        while servers.join_next().await.is_some() {}
        Ok(())
    }
}

/// The end of whoever started this daemon for itself. Without `asked` it never comes.
async fn stdin_closed(asked: bool) -> anyhow::Result<()> {
    use std::os::fd::AsFd as _;
    if !asked {
        return std::future::pending().await;
    }
    let pipe = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe)
        .context("--until-stdin-closes: standard input is not a pipe")?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    tracing::info!("standard input was closed");
    Ok(())
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    // No service manager, no notification.
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::debug!(%error, "telling the service manager");
    }
}

fn router(
    tls: Option<&Tls>,
    control: ControlService,
    bridge: Arc<BridgeService>,
    traces: Traces,
) -> anyhow::Result<Router> {
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT));
    if let Some(tls) = tls {
        server = server.tls_config(tls_config(tls)?)?;
    }
    let control_server = ControlServer::new(control.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let bridge = LlbBridgeServer::from_arc(bridge)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let content = ContentServer::new(control.clone()).max_encoding_message_size(MAX_MESSAGE);
    Ok(server
        .add_service(ImagesServer::new(control.clone()))
        .add_service(BuildsServer::new(control.clone()))
        .add_service(control_server)
        .add_service(content)
        .add_service(bridge)
        .add_service(HealthServer::new(Health))
        .add_service(TraceServiceServer::new(traces)))
}

fn tls_config(tls: &Tls) -> anyhow::Result<ServerTlsConfig> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).with_context(|| format!("reading the certificate file {}", path.display()))
    };
    let identity = Identity::from_pem(read(&tls.cert)?, read(&tls.key)?);
    let mut config = ServerTlsConfig::new().identity(identity);
    if let Some(authority) = &tls.client_ca {
        config = config.client_ca_root(Certificate::from_pem(read(authority)?));
    }
    Ok(config)
}

async fn serve(router: Router, listener: Bound, goodbye: CancellationToken) -> anyhow::Result<()> {
    let name = listener.to_string();
    let served = match listener {
        Bound::Unix(listener, _file) => serve_unix(router, listener, goodbye).await,
        Bound::Tcp(listener, _) => serve_tcp(router, listener, goodbye).await,
    };
    served.with_context(|| format!("serving {name}"))
}

async fn serve_unix(
    router: Router,
    listener: UnixListener,
    goodbye: CancellationToken,
) -> anyhow::Result<()> {
    Ok(router
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), goodbye.cancelled_owned())
        .await?)
}

async fn serve_tcp(router: Router, listener: TcpListener, goodbye: CancellationToken) -> anyhow::Result<()> {
    // The builder's own setting does not reach listeners that are handed to it.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(router.serve_with_incoming_shutdown(incoming, goodbye.cancelled_owned()).await?)
}
