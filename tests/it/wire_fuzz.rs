//! Every method of the daemon's API against bytes that mean nothing, too much, or harm.
use std::time::Duration;

use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::{InfoRequest, SolveRequest};
use rbuild_tests::{TestDaemon, TestSpace};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::wire::{block_on, channel};

const CONTROL: [&str; 9] = [
    "DiskUsage",
    "Prune",
    "Solve",
    "Status",
    "Session",
    "ListWorkers",
    "Info",
    "ListenBuildHistory",
    "UpdateBuildHistory",
];
const BRIDGE: [&str; 16] = [
    "ResolveImageConfig",
    "ResolveSourceMeta",
    "Solve",
    "ReadFile",
    "ReadDir",
    "StatFile",
    "Evaluate",
    "Ping",
    "Return",
    "Inputs",
    "NewContainer",
    "ReleaseContainer",
    "ExecProcess",
    "ReadFileContainer",
    "ReadDirContainer",
    "Warn",
];

/// Messages as the bytes they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(dst, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use prost::bytes::Buf as _;
        let bytes = src.copy_to_bytes(src.remaining());
        Ok(Some(bytes.to_vec()))
    }
}

fn paths() -> Vec<String> {
    let control = CONTROL.iter().map(|name| format!("/moby.buildkit.v1.Control/{name}"));
    let bridge = BRIDGE.iter().map(|name| format!("/moby.buildkit.v1.frontend.LLBBridge/{name}"));
    control
        .chain(bridge)
        .chain(["/rbuild.v1.Images/List".into(), "/rbuild.v1.Images/Remove".into()])
        .collect()
}

/// Calls with one message; the status of the call, or of its stream's end. A stream that says nothing is left.
async fn call(channel: &Channel, path: &str, message: Vec<u8>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(message);
    request.metadata_mut().insert("buildkit-controlapi-buildid", "nobody".parse().unwrap());
    request.metadata_mut().insert("x-docker-expose-session-uuid", "../../etc".parse().unwrap());
    let work = async {
        let response = client.server_streaming(request, path.parse().unwrap(), Raw).await?;
        let mut stream = response.into_inner();
        while stream.message().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap_or(Ok(()))
}

/// A definition in a definition in a definition…, through the source map.
fn nested(depth: usize) -> Vec<u8> {
    fn field(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(inner);
        out
    }
    let mut definition = field(1, b"x");
    for _ in 0..depth {
        // Source.infos (2) of SourceInfo.definition (3) of Definition.source (3).
        definition = field(3, &field(2, &field(3, &definition)));
    }
    // SolveRequest.definition.
    field(2, &definition)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn no_message_harms_the_daemon() {
    let mut daemon = TestDaemon::start();
    let messages: Vec<Vec<u8>> = vec![
        // A length beyond the end, a field number of zero, a varint without end, a group.
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x00, 0x01],
        vec![0xff; 64],
        vec![0x0b, 0x0c],
        // A string that is not UTF-8, a sub-message that is none.
        vec![0x0a, 0x02, 0xff, 0xfe],
        vec![0x12, 0x03, 0x0a, 0x7f, 0x00],
        nested(40),
        nested(5_000),
        noise(7, 3_000),
        noise(11, 100_000),
        vec![0x0a; 2 << 20],
    ];
    block_on(async {
        let channel = channel(&daemon).await;
        let mut calls = tokio::task::JoinSet::new();
        for path in paths() {
            for message in &messages {
                let (channel, path, message) = (channel.clone(), path.clone(), message.clone());
                calls.spawn(async move { (path.clone(), call(&channel, &path, message).await) });
            }
        }
        while let Some(done) = calls.join_next().await {
            let (path, result) = done.unwrap();
            if let Err(status) = result {
                let text = status.message();
                assert!(!text.contains("panicked") && !text.is_empty(), "{path}: {status:?}");
            }
        }
        ControlClient::new(channel).info(InfoRequest {}).await.unwrap();
    });
    assert!(daemon.alive(), "{}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN true\n");
    daemon.build(space.path(), &[]).success();
}

#[test]
fn messages_beyond_the_limit_are_refused_in_words() {
    let daemon = TestDaemon::start();
    block_on(async {
        let channel = channel(&daemon).await;
        let huge = vec![0x0a; (16 << 20) + 1];
        let status = call(&channel, "/moby.buildkit.v1.Control/Solve", huge).await.unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
        ControlClient::new(channel).info(InfoRequest {}).await.unwrap();
    });
}

#[test]
fn absurd_ids_are_refused() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut client = ControlClient::new(channel(&daemon).await).max_encoding_message_size(16 << 20);
        for id in ["", ".", "..", "../../etc", "a/b", "a\0b", "a b", "\u{202e}", &"x".repeat(1 << 20)] {
            let request = SolveRequest {
                r#ref: id.to_owned(),
                session: "../..".into(),
                frontend: "dockerfile.v0".into(),
                ..Default::default()
            };
            let status = client.solve(request).await.expect_err("an absurd id was taken");
            assert!(status.message().len() < 2_000_000 && !status.message().is_empty(), "{}", status.code());
        }
    });
    let leftovers: Vec<_> = std::fs::read_dir(daemon.root().join("run")).unwrap().flatten().collect();
    assert!(leftovers.iter().all(|entry| entry.file_type().unwrap().is_dir()), "{leftovers:?}");
}
