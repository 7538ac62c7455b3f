//! Logs, and the trace service that clients and steps send spans to.

use std::io::{IsTerminal as _, Write as _};

use rbuild_api::otlp::trace_service_server::TraceService;
use rbuild_api::otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use rbuild_build::Tracer;
use tonic::{Request, Response, Status};
use tracing_subscriber::EnvFilter;

use crate::config::Config;

/// Sets up logging to standard error at the configured level.
pub(crate) fn init(config: &Config) -> anyhow::Result<()> {
    let filter = match std::env::var("RBUILDD_LOG") {
        Ok(directives) => EnvFilter::try_new(directives)?,
        // Libraries below the transport are of no use to an operator unless asked for.
        Err(_) => {
            EnvFilter::try_new(format!("{0},h2=warn,hyper=warn,rustls=warn,tower=warn", config.log_level))?
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let set = match config.log_json {
        true => builder.json().flatten_event(true).with_ansi(false).try_init(),
        false => builder.with_ansi(ansi).with_target(false).try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("setting up logs: {error}"))
}

/// The last words of a daemon that cannot go on.
pub(crate) fn complain(error: &anyhow::Error) {
    // With standard error closed there is nobody left to tell.
    if writeln!(std::io::stderr(), "rbuildd: {error:#}").is_err() {
        tracing::error!(error = %format!("{error:#}"), "rbuildd cannot go on");
    }
}

/// Takes spans from clients and steps: for the history of the builds that they belong to, and for a collector.
#[derive(Debug, Clone)]
pub(crate) struct Traces(pub(crate) Tracer);

#[tonic::async_trait]
impl TraceService for Traces {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.receive(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
