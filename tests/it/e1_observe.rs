//! E1: metrics for Prometheus, traces for the history and for a collector.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rbuild_api::moby::buildkit::v1::UpdateBuildHistoryRequest;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::otlp::trace_service_client::TraceServiceClient;
use rbuild_api::otlp::trace_service_server::{TraceService, TraceServiceServer};
use rbuild_api::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, ResourceSpans, ScopeSpans, Span,
};
use rbuild_tests::{DaemonOptions, Running, TestDaemon, TestSpace, wait_until};
use tonic::{Request, Response, Status};

use crate::wire::{block_on, channel};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";

fn get(host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_served_where_the_operator_says_and_count_builds() {
    let options =
        DaemonOptions { config: "[metrics]\naddress = \"127.0.0.1:0\"\n".into(), ..Default::default() };
    let daemon = TestDaemon::start_with(options);
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo one\nRUN echo two\n");
    daemon.build(space.path(), &[]).success();
    daemon.build(space.path(), &[]).success();
    space.write("Dockerfile", "FROM busybox\nRUN exit 3\n");
    daemon.build(space.path(), &[]).failure();

    let log = daemon.log();
    let (_, rest) = log.split_once("metrics at http://").expect("the address is logged");
    let (host, _) = rest.split_once('/').unwrap();
    let answer = get(host, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for line in [
        "buildkit_builds_total{status=\"success\"} 2",
        "buildkit_builds_total{status=\"failure\"} 1",
        "buildkit_build_duration_seconds_count{status=\"success\"} 2",
        "rbuild_builds_running 0",
        "rbuild_steps_working 0",
        "# EOF",
    ] {
        assert!(answer.lines().any(|found| found == line), "{line} is not in {answer}");
    }
    let cached = "buildkit_builds_steps_total{kind=\"cached\"} ";
    let cached = answer.lines().find_map(|line| line.strip_prefix(cached)).expect("cached steps");
    assert!(cached.parse::<u32>().unwrap() >= 3, "{answer}");
    assert!(answer.contains("process_resident_memory_bytes "), "{answer}");
    assert!(get(host, "/debug/pprof").starts_with("HTTP/1.1 404"));
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        assert_eq!(request.metadata().get("x-token").unwrap(), "a b");
        self.0.lock().unwrap().extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn has(&self, name: &str) -> bool {
        let groups = self.0.lock().unwrap();
        let mut spans = groups.iter().flat_map(|g| &g.scope_spans).flat_map(|scope| &scope.spans);
        spans.any(|span| span.name == name && hex(&span.trace_id) == TRACE)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn spans_of_the_client() -> ExportTraceServiceRequest {
    let span = Span {
        trace_id: bytes(TRACE),
        span_id: bytes(CLIENT_SPAN),
        name: "from the client".into(),
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        ..Span::default()
    };
    let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
    let group = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![group] }
}

#[test]
fn traces_of_builds_and_clients_meet_in_the_history_and_at_the_collector() {
    let collector = Collector::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(collector.clone());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let _server =
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b".to_owned()),
    ];
    let options = DaemonOptions {
        env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        ..Default::default()
    };
    let daemon = TestDaemon::start_with(options);
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo begun; while :; do sleep 0.05; done\n");
    let mut client = daemon.client(space.path(), &["build", "--progress=plain", "."]);
    client.env("TRACEPARENT", format!("00-{TRACE}-{CLIENT_SPAN}-01"));
    let build = Running::start(client);
    build.wait_for("begun");
    block_on(async {
        let mut traces = TraceServiceClient::new(channel(&daemon).await);
        traces.export(spans_of_the_client()).await.unwrap();
    });
    build.kill();
    wait_until("the build has ended", || {
        let active = daemon.ctl(space.path(), &["history", "ls", "--format=json"]).success();
        !active.stdout.contains("running")
    });

    let trace = daemon.ctl(space.path(), &["history", "trace"]).success();
    let spans: Vec<serde_json::Value> =
        trace.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| {
        let found = spans.iter().find(|span| span["Name"].as_str().unwrap().ends_with(name));
        found.unwrap_or_else(|| panic!("no span {name} in {}", trace.stdout))
    };
    assert!(spans.iter().all(|span| span["SpanContext"]["TraceID"] == TRACE));
    named("from the client");
    let build = named("build");
    assert_eq!(build["Parent"]["SpanID"], CLIENT_SPAN);
    assert_eq!(build["Status"]["Code"], 1, "it was cancelled");
    let step = named("RUN echo begun; while :; do sleep 0.05; done");
    assert_eq!(step["Parent"]["SpanID"], build["SpanContext"]["SpanID"]);
    wait_until("the collector has the client's span", || collector.has("from the client"));
    wait_until("the collector has the build's spans", || collector.has("build"));
}

#[test]
fn a_trace_is_kept_by_itself_and_over_a_restart() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo one\n");
    daemon.build(space.path(), &[]).success();
    // A daemon that ends does not wait for clients any more.
    daemon.terminate();
    daemon.wait(std::time::Duration::from_secs(60));
    daemon.restart();
    let trace = daemon.ctl(space.path(), &["history", "trace"]).success();
    assert!(trace.stdout.contains("RUN echo one"), "{}", trace.stdout);
    block_on(async {
        let mut control = ControlClient::new(channel(&daemon).await);
        let nobody = UpdateBuildHistoryRequest { r#ref: "x".into(), finalize: true, ..Default::default() };
        let refused = control.update_build_history(nobody).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::NotFound);
    });
}

#[test]
fn where_traces_cannot_go_is_said_at_the_start() {
    let output = std::process::Command::new(rbuild_tests::binary("rbuildd"))
        .arg("--root")
        .arg(TestSpace::new().path())
        .env("OTEL_TRACES_EXPORTER", "zipkin")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("OTEL_TRACES_EXPORTER: `zipkin` is not supported: expected `otlp`"), "{error}");
}
