//! Statements that a client's frontend returns with its result.

use std::collections::BTreeMap;

use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::{Exporter, SolveRequest};
use rbuild_digest::{Digest, random_id};
use rbuild_llb::{Constraints, FileActions, MkdirAction, MkfileAction, State};
use rbuild_tests::{TestDaemon, registry, run};
use serde_json::{Value, json};
use tonic::Status;

use crate::gateway::Driven;
use crate::wire::block_on;

const KEY: &str = "linux/amd64";

fn files(files: &[(&str, &str)]) -> State {
    let mut actions = FileActions::new().mkdir(MkdirAction {
        path: "/bundle".into(),
        mode: 0o755,
        make_parents: false,
        owner: None,
        timestamp_ns: None,
    });
    for (path, text) in files {
        actions = actions.mkfile(MkfileAction {
            path: (*path).into(),
            mode: 0o644,
            data: text.as_bytes().to_vec().into(),
            owner: None,
            timestamp_ns: None,
        });
    }
    State::scratch().file(actions, Constraints::default())
}

fn said(kind: wire::AttestationKind, reference: &str, path: &str, predicate_type: &str) -> wire::Attestation {
    wire::Attestation {
        kind: kind.into(),
        r#ref: Some(wire::Ref { id: reference.into(), def: None }),
        path: path.into(),
        in_toto_predicate_type: predicate_type.into(),
        ..Default::default()
    }
}

fn subject(kind: wire::InTotoSubjectKind, name: &str, digest: &[Digest]) -> wire::InTotoSubject {
    wire::InTotoSubject {
        kind: kind.into(),
        name: name.into(),
        digest: digest.iter().map(ToString::to_string).collect(),
    }
}

/// Pushes an image with what is said about it, and returns the image's name.
async fn push(
    daemon: &TestDaemon,
    attrs: &[(&str, &str)],
    statements: &[(&str, &str)],
    attestations: impl FnOnce(&str) -> Vec<(&'static str, Vec<wire::Attestation>)>,
) -> Result<String, Status> {
    let name = format!("{}/returned:{}", registry().host, random_id());
    let mut all = BTreeMap::from([("name", name.as_str()), ("push", "true"), ("registry.insecure", "true")]);
    all.extend(attrs.iter().copied());
    let attrs = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let exporter = Exporter { r#type: "image".into(), attrs };
    let request = SolveRequest { exporters: vec![exporter], ..Default::default() };
    let mut build = Driven::start_with(daemon, request).await;
    let image = build.solve(&files(&[("/f", "data")])).await?;
    let statements = build.solve(&files(statements)).await?;
    let platforms = json!({"Platforms": [{"ID": KEY, "Platform": {"os": "linux", "architecture": "amd64"}}]});
    let refs = BTreeMap::from([(KEY.to_owned(), wire::Ref { id: image, def: None })]);
    let all = attestations(&statements).into_iter();
    let result = wire::Result {
        result: Some(wire::result::Result::Refs(wire::RefMap { refs })),
        metadata: [("refs.platforms".to_owned(), platforms.to_string().into_bytes())].into(),
        attestations: all
            .map(|(key, attestation)| (key.to_owned(), wire::Attestations { attestation }))
            .collect(),
    };
    build.finish_with(result).await?;
    Ok(name)
}

fn raw(reference: &str) -> Value {
    let from = format!("docker://{reference}");
    serde_json::from_str(&run("skopeo", &["inspect", "--raw", "--tls-verify=false", &from]).success().stdout)
        .unwrap()
}

fn blob(name: &str, digest: &Value) -> Value {
    let (host, repository) = name.split_once('/').unwrap();
    let repository = repository.split(':').next().unwrap();
    let url = format!("http://{host}/v2/{repository}/blobs/{}", digest.as_str().unwrap());
    let out = run("curl", &["-sf", &url]).success().stdout;
    serde_json::from_str(&out).unwrap()
}

/// The index of an image and the statements in it, with their layers' annotations.
fn statements(name: &str) -> (Value, Vec<(Value, Value)>) {
    let index = raw(name);
    let mut found = Vec::new();
    for entry in index["manifests"].as_array().unwrap() {
        if entry["annotations"]["vnd.docker.reference.type"] != "attestation-manifest" {
            continue;
        }
        let by_digest = format!("{}@{}", name.rsplit_once(':').unwrap().0, entry["digest"].as_str().unwrap());
        for layer in raw(&by_digest)["layers"].as_array().unwrap() {
            found.push((layer["annotations"].clone(), blob(name, &layer["digest"])));
        }
    }
    (index, found)
}

const FILES: &[(&str, &str)] = &[
    ("/p.json", r#"{ "x": 1 }"#),
    ("/bad", "no json"),
    (
        "/bundle/z.json",
        r#"{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://e.org/Z","subject":[{"name":"q","digest":{"sha256":"00"}}],"predicate":{"z": 1}}"#,
    ),
    (
        "/bundle/a.json",
        r#"{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://e.org/A","predicate":{"a": 1}}"#,
    ),
];

#[test]
fn statements_of_a_client_are_in_the_index_beside_their_image() {
    use wire::AttestationKind::{Bundle, InToto};
    use wire::InTotoSubjectKind::{Raw, Self_};
    let daemon = TestDaemon::start();
    let digest = Digest::of("x");
    let name = block_on(push(&daemon, &[], FILES, |files| {
        let mut one = said(InToto, files, "/p.json", "https://e.org/P");
        one.in_toto_subjects = vec![subject(Raw, "other", &[digest]), subject(Self_, "mine", &[])];
        vec![(KEY, vec![one, said(Bundle, files, "/bundle", "")])]
    }))
    .unwrap();
    let (index, found) = statements(&name);
    let of_image = index["manifests"][0]["digest"].as_str().unwrap();
    let statement = &index["manifests"][1];
    assert_eq!(statement["annotations"]["vnd.docker.reference.digest"], of_image);
    assert_eq!(statement["platform"], json!({"architecture": "unknown", "os": "unknown"}));
    let kinds: Vec<_> =
        found.iter().map(|(notes, _)| notes["in-toto.io/predicate-type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["https://e.org/P", "https://e.org/A", "https://e.org/Z"]);
    let [(_, one), (_, plain), (_, about)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(one["predicate"], json!({"x": 1}));
    assert_eq!(one["subject"][0], json!({"name": "other", "digest": {"sha256": digest.hex()}}));
    let own = json!({"sha256": of_image.strip_prefix("sha256:").unwrap()});
    assert_eq!(one["subject"][1], json!({"name": "mine", "digest": own}));
    assert_eq!(plain["subject"][0]["digest"], own);
    assert_eq!(about["subject"], json!([{"name": "q", "digest": {"sha256": "00"}}]));
}

#[test]
fn statements_that_are_none_fail_the_build() {
    use wire::AttestationKind::{Bundle, InToto};
    let daemon = TestDaemon::start();
    let refused = |attestation: &dyn Fn(&str) -> wire::Attestation, word: &str| {
        let pushed = push(&daemon, &[], FILES, |files| vec![(KEY, vec![attestation(files)])]);
        let message = block_on(pushed).unwrap_err().message().to_owned();
        assert!(message.contains(word), "{message}");
    };
    refused(&|files| said(InToto, files, "/bad", "t"), "not JSON");
    refused(&|files| said(InToto, files, "/none", "t"), "none");
    refused(&|_| said(InToto, "", "/p.json", "t"), "available content");
    refused(&|_| said(InToto, "nosuch", "/p.json", "t"), "nosuch");
    refused(&|files| said(Bundle, files, "/bundle", "https://e.org/A"), "required predicate type");
    refused(&|files| wire::Attestation { kind: 7, ..said(InToto, files, "/p.json", "t") }, "kind 7");
}
