//! Raw calls, as a foreign or hostile client makes them.
use std::collections::BTreeMap;

use prost::Message as _;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::{
    DiskUsageRequest, InfoRequest, ListWorkersRequest, SolveRequest, StatusRequest,
};
use rbuild_api::pb;
use rbuild_digest::{Digest, random_id};
use rbuild_tests::{TestDaemon, TestSpace};
use tonic::transport::Channel;

pub(crate) async fn channel(daemon: &TestDaemon) -> Channel {
    let path = daemon.addr().trim_start_matches("unix://").to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.unwrap()
}

async fn connect(daemon: &TestDaemon) -> ControlClient<Channel> {
    ControlClient::new(channel(daemon).await)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

fn terminal(input: &[u8]) -> Vec<u8> {
    let input = pb::Input { digest: Digest::of(input).to_string(), index: 0 };
    pb::Op { inputs: vec![input], ..Default::default() }.encode_to_vec()
}

fn solve(def: Vec<Vec<u8>>) -> SolveRequest {
    SolveRequest {
        r#ref: random_id(),
        definition: Some(pb::Definition { def, metadata: BTreeMap::new(), source: None }),
        ..Default::default()
    }
}

#[test]
fn hostile_definitions_are_errors_and_the_daemon_lives_on() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut client = connect(&daemon).await;
        let missing = pb::Op {
            inputs: vec![pb::Input { digest: Digest::of("nowhere").to_string(), index: 0 }],
            op: Some(pb::op::Op::Exec(pb::ExecOp::default())),
            ..Default::default()
        }
        .encode_to_vec();
        let negative = pb::Op {
            op: Some(pb::op::Op::File(pb::FileOp {
                actions: vec![pb::FileAction {
                    input: -7,
                    output: -9,
                    secondary_input: 1 << 40,
                    ..Default::default()
                }],
            })),
            ..Default::default()
        }
        .encode_to_vec();
        let insecure = pb::Op {
            op: Some(pb::op::Op::Exec(pb::ExecOp {
                meta: Some(pb::Meta { args: vec!["true".into()], cwd: "/".into(), ..Default::default() }),
                mounts: vec![pb::Mount { input: -1, dest: "/".into(), ..Default::default() }],
                security: 77,
                ..Default::default()
            })),
            ..Default::default()
        }
        .encode_to_vec();
        for op in [missing, negative, insecure, vec![0xff; 40], Vec::new()] {
            let request = solve(vec![op.clone(), terminal(&op)]);
            let error = client.solve(request).await.expect_err("a hostile definition was solved");
            assert!(!error.message().is_empty());
        }
        client.info(InfoRequest {}).await.unwrap();
    });
}

#[test]
fn information_calls_answer() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut client = connect(&daemon).await;
        let workers = client.list_workers(ListWorkersRequest::default()).await.unwrap().into_inner().record;
        assert_eq!(workers.len(), 1);
        assert!(workers[0].platforms.iter().any(|platform| platform.architecture == "amd64"));
        assert!(workers[0].labels.contains_key("org.mobyproject.buildkit.worker.snapshotter"));
        client.disk_usage(DiskUsageRequest::default()).await.unwrap();
        let version = client.info(InfoRequest {}).await.unwrap().into_inner().buildkit_version.unwrap();
        assert!(version.version.starts_with('v'), "{version:?}");
    });
}

#[test]
fn status_of_a_build_that_never_comes_ends() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut client = connect(&daemon).await;
        let request = StatusRequest { r#ref: random_id() };
        let error = match client.status(request).await {
            Err(error) => error,
            Ok(stream) => stream.into_inner().message().await.expect_err("a status of nothing"),
        };
        assert_eq!(error.code(), tonic::Code::NotFound, "{error}");
    });
}

#[test]
fn malformed_messages_are_refused() {
    use std::io::{Read, Write};
    let mut daemon = TestDaemon::start();
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0xff; 300],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff",
    ] {
        let path = daemon.addr().trim_start_matches("unix://").to_owned();
        let mut socket = std::os::unix::net::UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        socket.write_all(bytes).unwrap();
        let mut sink = Vec::new();
        // Whatever it answers, it must not be gone afterwards.
        if let Err(err) = socket.read_to_end(&mut sink) {
            assert!(sink.len() < 1 << 20, "{err}");
        }
    }
    assert!(daemon.alive());
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\n");
    daemon.build(space.path(), &[]).success().has("DONE");
}
