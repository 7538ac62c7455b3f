//! What the frontend makes of requests: files, ignore files, other frontends, sub-requests, inputs.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics has failed")]

mod fake;

use std::collections::BTreeMap;
use std::sync::Arc;

use fake::{Case, FakeBridge};
use rbuild_dockerfile::{DockerfileFrontend, compile_offline};
use rbuild_frontend::{
    BuildError, Detail, ErrorCode, Fault, Frontend, FrontendRequest, FrontendResult, ResultRefs,
};
use rbuild_llb::{CdiDevice, Constraints, Definition, Graph, LocalOptions, MarshalOptions, OpKind, State};

struct Run {
    bridge: Arc<FakeBridge>,
    outcome: Result<FrontendResult, BuildError>,
}

async fn run(files: &[(&str, &str)], options: &[(&str, &str)], inputs: BTreeMap<String, Definition>) -> Run {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let bridge = Arc::new(FakeBridge::new(Case::load(dir.path())));
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let request = FrontendRequest { options, inputs, session_id: "SESSION".into() };
    let outcome = DockerfileFrontend::default().solve(bridge.clone(), request).await;
    Run { bridge, outcome }
}

fn names(definition: &Definition) -> Vec<String> {
    let graph = Graph::from_definition(definition).unwrap();
    graph.vertices().iter().map(|vertex| vertex.name()).collect()
}

#[tokio::test]
async fn a_missing_dockerfile_says_what_was_looked_for() {
    let error = run(&[], &[], BTreeMap::new()).await.outcome.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    let first = error.message.lines().next().unwrap();
    assert_eq!(first, "failed to read dockerfile: open Dockerfile: no such file or directory");
    assert!(error.message.contains("`dockerfile`"), "{}", error.message);
    let error = run(&[], &[("filename", "x/y")], BTreeMap::new()).await.outcome.unwrap_err();
    assert!(error.message.contains("open x/y: no such file"), "{}", error.message);
}

#[tokio::test]
async fn an_empty_dockerfile_and_one_without_instructions_are_told_apart() {
    for (text, expected) in [("", "the Dockerfile cannot be empty"), ("# x\n", "file with no instructions")] {
        let error = run(&[("Dockerfile", text)], &[], BTreeMap::new()).await.outcome.unwrap_err();
        assert_eq!(error.message, expected);
    }
}

#[tokio::test]
async fn a_lower_case_dockerfile_is_found() {
    let run = run(&[("dockerfile", "FROM busybox\nRUN x\n")], &[], BTreeMap::new()).await;
    assert!(run.outcome.is_ok());
}

#[tokio::test]
async fn well_known_syntaxes_are_built_in_and_others_are_forwarded() {
    for name in
        ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs", "docker/dockerfile-upstream:master"]
    {
        let text = format!("# syntax={name}\nFROM busybox\nRUN x\n");
        let run = run(&[("Dockerfile", &text)], &[], BTreeMap::new()).await;
        assert!(run.outcome.is_ok() && run.bridge.forwarded().is_empty(), "{name}");
    }
    let text = "# syntax=example.com/a/b:c --flag\nnot a dockerfile\n";
    let run = run(&[("Dockerfile", text)], &[("target", "t")], BTreeMap::new()).await;
    let forwarded = run.bridge.forwarded();
    assert_eq!(forwarded[0].frontend, "gateway.v0");
    assert_eq!(forwarded[0].options["source"], "example.com/a/b:c");
    assert_eq!(forwarded[0].options["cmdline"], "example.com/a/b:c --flag");
    assert_eq!(forwarded[0].options["target"], "t");
}

#[tokio::test]
async fn the_syntax_option_wins() {
    let options = [("build-arg:BUILDKIT_SYNTAX", "own/frontend")];
    let run = run(&[("Dockerfile", "# syntax=other/one\nFROM a\n")], &options, BTreeMap::new()).await;
    assert_eq!(run.bridge.forwarded()[0].options["source"], "own/frontend");
}

#[tokio::test]
async fn inputs_replace_the_clients_directories() {
    let state = State::local(
        "somewhere",
        LocalOptions {
            session_id: "S".into(),
            constraints: Constraints::default().custom_name("mine"),
            ..LocalOptions::default()
        },
    );
    let definition = state.marshal(&MarshalOptions::default()).unwrap();
    let inputs = BTreeMap::from([
        ("context".to_owned(), definition.clone()),
        ("dockerfile".to_owned(), definition.clone()),
        ("extra".to_owned(), definition),
    ]);
    let text = "FROM busybox\nCOPY a b\nCOPY --from=extra c d\n";
    let options = [("context:extra", "input:extra")];
    let run = run(&[("Dockerfile", text)], &options, inputs).await;
    run.outcome.unwrap();
    let solved = run.bridge.solved();
    assert_eq!(solved.len(), 2, "the file and the result; no ignore file");
    assert_eq!(names(&solved[0]), ["mine"]);
    let graph = Graph::from_definition(&solved[1]).unwrap();
    let locals = graph.vertices().iter().filter(|vertex| {
        matches!(&vertex.op.kind, OpKind::Source(source) if source.identifier.starts_with("local://"))
    });
    assert_eq!(locals.count(), 1, "both come from one vertex");
}

#[tokio::test]
async fn named_images_replace_names_and_are_pinned() {
    let text = "FROM busybox AS base\nRUN old\nFROM base\nRUN new\nCOPY --from=other a b\n";
    let options = [("context:base", "docker-image://alpine:3"), ("context:other", "docker-image://debian")];
    let run = run(&[("Dockerfile", text)], &options, BTreeMap::new()).await;
    run.outcome.unwrap();
    let solved = run.bridge.solved();
    let shown = names(solved.last().unwrap());
    assert!(shown.iter().any(|name| name.starts_with("[context base] alpine:3")), "{shown:?}");
    assert!(!shown.iter().any(|name| name.contains("RUN old")), "{shown:?}");
    let graph = Graph::from_definition(solved.last().unwrap()).unwrap();
    let OpKind::Source(source) = &graph.vertices()[0].op.kind else { panic!("no source") };
    assert!(source.identifier.contains("@sha256:"), "{}", source.identifier);
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let cases = [
        ("FROM a\n", vec![("context", "ftp://u:secret@x/y")], "unsupported build context `ftp://x/y`"),
        ("FROM a\n", vec![("context", "word")], "unsupported build context `word`"),
        ("FROM a\n", vec![("context:a", "oci-layout://x:v1")], "oci-layout reference \"x:v1\" has no digest"),
        ("FROM a\n", vec![("context:a", "bogus:x")], "unsupported context source bogus for a"),
    ];
    for (text, options, expected) in cases {
        let error = run(&[("Dockerfile", text)], &options, BTreeMap::new()).await.outcome.unwrap_err();
        assert!(error.message.contains(expected), "{text}: {}", error.message);
    }
}

#[tokio::test]
async fn sub_requests_are_described_or_refused() {
    let text = [("Dockerfile", "FROM a\n")];
    let known = run(&text, &[("requestid", "frontend.subrequests.describe")], BTreeMap::new()).await;
    let metadata = known.outcome.unwrap().metadata;
    assert!(String::from_utf8_lossy(&metadata["result.json"]).contains("frontend.subrequests.describe"));
    let error = run(&text, &[("requestid", "frontend.foo")], BTreeMap::new()).await.outcome.unwrap_err();
    assert_eq!(error.message, "unsupported request frontend.foo");
    assert!(matches!(&error.details[..], [Detail::Subrequest(name)] if name == "frontend.foo"));
}

#[tokio::test]
async fn several_platforms_give_named_results() {
    let options = [("platform", "linux/amd64,linux/arm64")];
    let run = run(&[("Dockerfile", "FROM busybox\nRUN x\n")], &options, BTreeMap::new()).await;
    let result = run.outcome.unwrap();
    let ResultRefs::Named(refs) = result.refs else { panic!("not named") };
    assert_eq!(refs.keys().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
    assert!(result.metadata.contains_key("containerimage.config/linux/arm64"));
}

#[tokio::test]
async fn errors_point_into_the_file() {
    let text = "FROM busybox\nRUN a \\\n  b\nENV X=${Y?}\n";
    let error = run(&[("Dockerfile", text)], &[], BTreeMap::new()).await.outcome.unwrap_err();
    let [Detail::Source(location), Detail::Fault(Fault::RequiredVariable), Detail::Hint(hint)] =
        &error.details[..]
    else {
        panic!("{:?}", error.details)
    };
    assert!(hint.contains("--build-arg Y=VALUE"), "{hint}");
    assert_eq!((location.ranges[0].start.line, &*location.info.filename), (4, "Dockerfile"));
    assert_eq!(&location.info.data[..], text.as_bytes());
}

#[tokio::test]
async fn a_bad_ignore_file_is_named() {
    let files = [("Dockerfile", "FROM a\nCOPY . .\n"), (".dockerignore", "a\n!\n")];
    let error = run(&files, &[], BTreeMap::new()).await.outcome.unwrap_err();
    assert!(error.message.starts_with(".dockerignore: "), "{}", error.message);
}

#[test]
fn offline_compilation_is_deterministic() {
    let text = b"FROM golang AS b\nCOPY . .\nRUN make\nFROM scratch\nCOPY --from=b a b\n";
    let options = BTreeMap::from([("build-arg:X".to_owned(), "y".to_owned())]);
    let first = compile_offline("Dockerfile", text, &options).unwrap();
    let second = compile_offline("Dockerfile", text, &options).unwrap();
    assert_eq!(first.definition, second.definition);
    assert!(String::from_utf8_lossy(&first.config).contains("\"architecture\":\"amd64\""));
}

#[test]
fn values_that_multiply_are_refused() {
    let long = "x".repeat(60_000);
    let error = |text: String| {
        let error = compile_offline("Dockerfile", text.as_bytes(), &BTreeMap::new()).unwrap_err().to_string();
        error.chars().rev().take(100).collect::<Vec<_>>().into_iter().rev().collect::<String>()
    };
    let one = format!("FROM scratch\nENV a={long}\nENV b=\"{}\"\n", "$a".repeat(30_000));
    assert!(error(one).contains("the text expands to more than"));
    let many = format!("FROM scratch\nENV a={long}\n{}", "ENV b=$a$a$a$a$a\n".repeat(4_000));
    assert!(error(many).contains("bytes in all"));
    let before = format!("ARG a={long}\n{}FROM scratch\n", "ARG b=$a$a$a$a$a\n".repeat(4_000));
    assert!(error(before).contains("bytes in all"));
    let carried = format!("FROM scratch\nARG a={long}\n{}", "RUN x\n".repeat(4_000));
    assert!(error(carried).contains("bytes in all"));
}

/// Without a limit on time (machines differ): this many files must not take long even unoptimised.
#[test]
fn many_files_compile_offline() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut compiled = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let text = std::fs::read(entry.unwrap().path().join("Dockerfile")).unwrap();
        compiled += usize::from(compile_offline("Dockerfile", &text, &BTreeMap::new()).is_ok());
    }
    assert!(compiled > 100, "{compiled}");
}

#[tokio::test]
async fn devices_of_a_run_are_asked_of_the_daemon() {
    let text = "FROM a\nARG N=gpu\nRUN --device=x.y/$N=all --device=name=x.y/z,required true\n";
    let run = run(&[("Dockerfile", text)], &[], BTreeMap::new()).await;
    run.outcome.unwrap();
    let solved = run.bridge.solved();
    let graph = Graph::from_definition(solved.last().unwrap()).unwrap();
    let devices = graph.vertices().iter().find_map(|vertex| match &vertex.op.kind {
        OpKind::Exec(exec) => Some(exec.cdi_devices.clone()),
        _ => None,
    });
    let device = |name: &str, optional| CdiDevice { name: name.to_owned(), optional };
    assert_eq!(devices.unwrap(), [device("x.y/gpu=all", true), device("x.y/z", false)]);
}
