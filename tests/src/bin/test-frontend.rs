//! A frontend that is an image, for tests: the option `mode` says how it behaves, well or badly.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use rbuild_api::pb;
use rbuild_llb::{Constraints, FileActions, MarshalOptions, MkfileAction, State};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tonic::transport::Channel;

type Client = LlbBridgeClient<Channel>;

/// Standard streams as one connection.
struct Stdio {
    input: tokio::io::Stdin,
    output: tokio::io::Stdout,
}

impl AsyncRead for Stdio {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.output).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.output).poll_shutdown(cx)
    }
}

async fn connect() -> Client {
    let connector = tower::service_fn(|_| async {
        let io = Stdio { input: tokio::io::stdin(), output: tokio::io::stdout() };
        Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(io))
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    LlbBridgeClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

fn options() -> BTreeMap<String, String> {
    let variables = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    variables
        .filter_map(|(_, text)| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect()
}

/// A file of that text, as a definition.
fn file(text: String) -> pb::Definition {
    let file = MkfileAction {
        path: "/hello".into(),
        data: text.into_bytes().into(),
        mode: 0o644,
        ..Default::default()
    };
    let state = State::scratch().file(FileActions::new().mkfile(file), Constraints::default());
    state.marshal(&MarshalOptions::default()).unwrap().to_wire()
}

async fn solve(client: &mut Client, request: wire::SolveRequest) -> wire::Result {
    let request = wire::SolveRequest { allow_result_array_ref: true, allow_result_return: true, ..request };
    client.solve(request).await.unwrap().into_inner().result.unwrap()
}

async fn give_back(client: &mut Client, result: wire::Result) {
    client.r#return(wire::ReturnRequest { result: Some(result), error: None }).await.unwrap();
}

async fn build(client: &mut Client, text: String) {
    let result =
        solve(client, wire::SolveRequest { definition: Some(file(text.clone())), ..Default::default() });
    let result = result.await;
    let Some(wire::result::Result::Ref(reference)) = &result.result else { panic!("no single reference") };
    let read = wire::ReadFileRequest {
        r#ref: reference.id.clone(),
        file_path: "/hello".into(),
        ..Default::default()
    };
    assert_eq!(client.read_file(read).await.unwrap().into_inner().data, text.into_bytes());
    give_back(client, result).await;
}

/// What it was told, a line each.
fn told(options: &BTreeMap<String, String>) -> String {
    let mut lines: Vec<String> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    for name in ["BUILDKIT_SESSION_ID", "BUILDKIT_WORKERS", "BUILDKIT_EXPORTEDPRODUCT"] {
        lines.push(format!("{name} {}", std::env::var(name).unwrap_or_else(|_| "missing".into())));
    }
    let links = std::fs::read_dir("/sys/class/net").unwrap();
    let mut links: Vec<_> = links.map(|link| link.unwrap().file_name().into_string().unwrap()).collect();
    links.sort();
    lines.push(format!("links {}", links.join(" ")));
    lines.join("\n") + "\n"
}

/// What the daemon says of the repository and the ref that the options name.
async fn meta(client: &mut Client, options: &BTreeMap<String, String>) -> String {
    let url = &options["url"];
    let (_, place) = url.split_once("://").unwrap();
    let source = pb::SourceOp {
        identifier: format!("git://{place}#{}", options["ref"]),
        attrs: std::iter::once(("git.fullurl".to_owned(), url.clone())).collect(),
    };
    let request = wire::ResolveSourceMetaRequest { source: Some(source), ..Default::default() };
    let git = client.resolve_source_meta(request).await.unwrap().into_inner().git.unwrap();
    format!("{}\n{}\n{}\n", git.checksum, git.commit_checksum, git.r#ref)
}

async fn misbehave(mode: &str) {
    match mode {
        "crash" => {
            eprintln!("something broke in here");
            std::process::exit(3);
        }
        "silent" => std::process::exit(0),
        "garbage" => {
            let mut output = tokio::io::stdout();
            output.write_all(b"usage: not a frontend at all\n").await.unwrap();
            output.flush().await.unwrap();
            tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await.unwrap();
            std::process::exit(0);
        }
        "hang" => {
            eprintln!("thinking about it");
            std::future::pending::<()>().await;
        }
        _ => {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = options();
    let mode = options.get("mode").map_or("build", String::as_str);
    misbehave(mode).await;
    let mut client = connect().await;
    let pong = client.ping(wire::PingRequest {}).await.unwrap().into_inner();
    assert!(pong.frontend_api_caps.iter().any(|cap| cap.id == "solve.base"));
    assert_eq!(pong.workers.len(), 1);
    match mode {
        "build" if options.contains_key("requestid") => {
            let metadata = BTreeMap::from([
                ("result.json".to_owned(), b"{\"answered\":true}".to_vec()),
                ("result.txt".to_owned(), format!("asked for {}\n", options["requestid"]).into_bytes()),
                ("version".to_owned(), b"1.0.0".to_vec()),
            ]);
            give_back(&mut client, wire::Result { metadata, ..Default::default() }).await;
        }
        "meta" => {
            let text = meta(&mut client, &options).await;
            build(&mut client, text).await;
        }
        "build" => build(&mut client, told(&options)).await,
        "error" => {
            let error =
                RpcStatus { code: 3, message: "line 3 of the recipe is wrong".into(), details: vec![] };
            client.r#return(wire::ReturnRequest { result: None, error: Some(error) }).await.unwrap();
        }
        "lie" => {
            let reference = wire::Ref { id: "reference0of0another0build".into(), def: None };
            let result =
                wire::Result { result: Some(wire::result::Result::Ref(reference)), ..Default::default() };
            let request = wire::ReturnRequest { result: Some(result), error: None };
            client.r#return(request).await.unwrap();
        }
        "fail-after" => {
            build(&mut client, "x".into()).await;
            std::process::exit(5);
        }
        "input" => {
            let mut inputs = client.inputs(wire::InputsRequest {}).await.unwrap().into_inner().definitions;
            let definition = inputs.remove("context");
            let result = solve(&mut client, wire::SolveRequest { definition, ..Default::default() }).await;
            give_back(&mut client, result).await;
        }
        "dockerfile" => {
            let request = wire::SolveRequest {
                frontend: "dockerfile.v0".into(),
                frontend_opt: BTreeMap::from([("cmdline".to_owned(), "nested".to_owned())]),
                ..Default::default()
            };
            let result = solve(&mut client, request).await;
            give_back(&mut client, result).await;
        }
        other => panic!("unknown mode {other}"),
    }
    // Returning would wait for the thread that reads standard input.
    std::process::exit(0);
}
