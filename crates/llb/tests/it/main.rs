//! Compares with what upstream's client makes of the same states (`golden/states.*`: a definition and its dumps).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod properties;
mod refusals;

use std::sync::Arc;

use prost::Message as _;
use rbuild_llb::*;
use rbuild_oci::Platform;

const GOLDEN: &[u8] = include_bytes!("golden/states.pb");
const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn named(name: &str) -> Constraints {
    Constraints::default().custom_name(name)
}

fn image(name: &str, options: ImageOptions) -> State {
    State::image(name, options).unwrap()
}

fn local_context() -> State {
    State::local(
        "context",
        LocalOptions {
            session_id: "sess".into(),
            include_patterns: vec!["a<b".into(), "c".into()],
            follow_paths: vec!["x".into()],
            exclude_patterns: vec!["*.o".into(), "&".into()],
            shared_key_hint: "hint".into(),
            differ: Some((LocalDiffer::None, false)),
            constraints: named("[internal] load build context"),
            ..LocalOptions::default()
        },
    )
}

fn run(image: &State, local: &State) -> ExecState {
    let base = image.clone().add_env("A", "1").add_env("B", "2").add_env("A", "3");
    let base = base.dir("/work").dir("sub").user("me");
    let mut source = MountOptions::bind("/src", local.clone());
    source.readonly = true;
    source.selector = "/p".into();
    let mut again = MountOptions::bind("/again", local.clone());
    again.no_output = true;
    let cache = Attached::Cache { from: State::scratch(), id: "cid".into(), sharing: CacheSharing::Locked };
    let file = SecretOptions {
        id: "sid".into(),
        target: Some("/run/secrets/s".into()),
        uid: 1,
        gid: 2,
        mode: 0o600,
        optional: true,
        ..SecretOptions::default()
    };
    let variable = SecretOptions { id: "tok".into(), env: Some("TOKEN".into()), ..SecretOptions::default() };
    base.hostname("h")
        .add_extra_host("peer", "10.0.0.1")
        .add_ulimit("nofile", 10, 20)
        .network(NetMode::Host)
        .security(SecurityMode::Insecure)
        .cgroup_parent("grp")
        .run(ExecOptions {
            args: vec!["sh".into(), "-c".into(), "echo <hi>".into()],
            mounts: vec![
                source,
                MountOptions::bind("/out", State::scratch()),
                again,
                MountOptions::new("/cache", cache),
                MountOptions::new("/tmp", Attached::Tmpfs { size_bytes: 77 }),
            ],
            secrets: vec![file, variable],
            ssh: vec![SshOptions { id: "default".into(), ..SshOptions::default() }],
            proxy_env: Some(ProxyEnv { http_proxy: "http://p".into(), ..ProxyEnv::default() }),
            constraints: named("[base 2/3] RUN echo")
                .ignore_cache()
                .export_cache(false)
                .progress_group(ProgressGroup { id: "g".into(), name: "group".into(), weak: true }),
            ..ExecOptions::default()
        })
}

fn file(run: &ExecState, local: &State) -> State {
    let out = run.mount("/out").unwrap();
    let actions = FileActions::new()
        .mkdir(MkdirAction {
            path: "d".into(),
            mode: 0o755,
            make_parents: true,
            owner: Some(Chown::parse("joe:staff")),
            timestamp_ns: Some(5_000_000_006),
        })
        .mkfile(MkfileAction {
            path: "/f".into(),
            mode: 0o1644,
            data: b"data\0".as_slice().into(),
            owner: Some(Chown::ids(7, 8)),
            timestamp_ns: None,
        })
        .rm(RmAction { path: "x*".into(), allow_not_found: true, allow_wildcard: true })
        .symlink(SymlinkAction {
            old_path: "old".into(),
            new_path: "/new".into(),
            ..SymlinkAction::default()
        })
        .copy(
            &out,
            CopyAction {
                src: "rel/./p".into(),
                dest: "dst/".into(),
                mode: Chmod::Bits(0o640),
                follow_symlink: true,
                dir_copy_contents: true,
                include_patterns: vec!["i".into()],
                exclude_patterns: vec!["e".into()],
                create_dest_path: true,
                allow_wildcard: true,
                allow_empty_wildcard: true,
                always_replace_existing: true,
                attempt_unpack: true,
                owner: Some(Chown::parse("1000")),
                ..CopyAction::default()
            },
        )
        .copy(
            local,
            CopyAction {
                src: "/".into(),
                dest: ".".into(),
                mode: Chmod::Symbolic("u=rw".into()),
                required_paths: vec!["r".into()],
                ..CopyAction::default()
            },
        );
    run.root().dir("/work").file(actions, named("[base 3/3] COPY"))
}

fn sources() -> [State; 4] {
    let mut arm = Platform::new("linux", "arm");
    arm.variant = "v7".into();
    let checksum = EMPTY.parse().unwrap();
    [
        image(
            "docker.io/library/alpine:3.20",
            ImageOptions {
                layer_limit: Some(2),
                constraints: Constraints::default().platform(arm),
                ..ImageOptions::default()
            },
        ),
        State::oci_layout(
            &format!("lay@{EMPTY}"),
            OciLayoutOptions {
                session_id: "s1".into(),
                store_id: "store".into(),
                ..OciLayoutOptions::default()
            },
        ),
        State::http(
            "https://example.com/x.tar",
            HttpOptions {
                filename: "y".into(),
                mode: 0o755,
                uid: 3,
                gid: 4,
                checksum: Some(checksum),
                ..HttpOptions::default()
            },
        ),
        State::git(
            &git::GitUrl::parse("https://github.com/moby/buildkit.git").unwrap().unwrap(),
            GitOptions {
                git_ref: "v0.9".into(),
                subdir: "sub/dir".into(),
                keep_git_dir: true,
                checksum: "abc".into(),
                ..GitOptions::default()
            },
        ),
    ]
}

/// The states that the golden definition was made of.
fn everything() -> State {
    let local = local_context();
    let local2 = State::local(
        "other",
        LocalOptions { metadata_only: Some(vec!["f".into()]), ..LocalOptions::default() },
    );
    let img = image(
        "busybox",
        ImageOptions {
            record_type: "internal".into(),
            resolve_mode: ImageResolveMode::ForcePull,
            constraints: named("[base 1/3] FROM busybox"),
            ..ImageOptions::default()
        },
    );
    let [img2, oci, http, git] = sources();
    let none = Constraints::default;
    let file = file(&run(&img, &local), &local);
    let merged = State::merge(&[file, img2.clone(), oci, State::scratch(), local2], none());
    let diff = State::diff(&img, &merged, none());
    let diff2 = State::diff(&merged, &State::scratch(), none());
    let info = SourceInfo {
        filename: "Dockerfile".into(),
        language: "Dockerfile".into(),
        data: b"FROM busybox\n".as_slice().into(),
        definition: None,
    };
    let range = Range { start: Position { line: 1, character: 0 }, end: Position { line: 2, character: 3 } };
    let location = SourceLocation { info: Arc::new(info), ranges: vec![range] };
    let all = State::merge(&[diff, diff2, http, git], none().location(location));
    let all = all.requires("req", &[img2], none());
    let empty = MkfileAction { path: "a".into(), mode: 0o600, ..MkfileAction::default() };
    let second = State::scratch().file(FileActions::new().mkfile(empty), none()).run(ExecOptions {
        args: vec!["true".into()],
        readonly_root: true,
        mounts: vec![MountOptions::bind("/m", image("x:1", ImageOptions::default()))],
        ..ExecOptions::default()
    });
    State::merge(&[all, second.mount("/m").unwrap()], none())
}

fn options() -> MarshalOptions {
    MarshalOptions {
        platform: Platform::new("linux", "amd64"),
        local_unique_id: "unique".into(),
        ..MarshalOptions::default()
    }
}

#[test]
fn a_definition_equals_upstreams() {
    let golden = Definition::decode(GOLDEN).unwrap();
    let ours = everything().marshal(&options()).unwrap();
    let (a, b) = (definition_to_json_lines(&ours).unwrap(), definition_to_json_lines(&golden).unwrap());
    for (ours, theirs) in a.lines().zip(b.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.ops, golden.ops);
    assert_eq!(ours.metadata, golden.metadata);
    assert_eq!(ours.source, golden.source);
}

#[test]
fn dumps_equal_upstreams() {
    let golden = Definition::decode(GOLDEN).unwrap();
    // Upstream's dump leaves symlinks out; ours doesn't.
    let symlink = r#""Action":{"symlink":{"oldpath":"old","newpath":"/new","timestamp":-1}}"#;
    let theirs = include_str!("golden/states.jsonl").replace(r#""Action":{}"#, symlink);
    for (ours, theirs) in definition_to_json_lines(&golden).unwrap().lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(definition_to_dot(&golden).unwrap(), include_str!("golden/states.dot"));
}

#[test]
fn decoded_ops_encode_to_the_same_bytes() {
    let golden = Definition::decode(GOLDEN).unwrap();
    let graph = Graph::from_definition(&golden).unwrap();
    assert_eq!(graph.len() + 1, golden.ops.len());
    for vertex in graph.vertices() {
        assert_eq!(vertex.op.digest(), vertex.digest, "{}", vertex.name());
    }
    let again = Definition::from_wire(golden.to_wire()).unwrap();
    assert_eq!(again, golden);
}

#[test]
fn a_state_of_a_definition_marshals_to_that_definition() {
    let golden = Definition::decode(GOLDEN).unwrap();
    let state = State::from_definition(&golden).unwrap();
    // Other options change nothing.
    let other = MarshalOptions { platform: Platform::new("linux", "s390x"), ..MarshalOptions::default() };
    assert_eq!(state.marshal(&other).unwrap(), golden);
    let scratch = State::from_definition(&Definition::default()).unwrap();
    assert!(scratch.is_scratch());
    let more = state.file(FileActions::new().rm(RmAction::default()), Constraints::default());
    let graph = Graph::from_definition(&more.marshal(&other).unwrap()).unwrap();
    assert_eq!(graph.len(), golden.ops.len());
}

#[test]
fn inputs_stand_before_their_users() {
    let graph = Graph::from_definition(&Definition::decode(GOLDEN).unwrap()).unwrap();
    for (id, vertex) in graph.iter() {
        assert!(vertex.inputs.iter().all(|edge| edge.vertex < id));
        assert_eq!(vertex.inputs.len(), vertex.op.inputs.len());
        assert_eq!(graph.find(&vertex.digest), Some(id));
    }
    assert!(graph.terminal().is_some());
}

#[test]
fn empty_attributes_are_encoded_as_upstream_does() {
    let op = Op::new(OpKind::Source(SourceOp::new("x", [("a".into(), String::new())].into())), vec![]);
    // Go writes the empty value of a map entry: key 0a 01 61, value 12 00.
    assert_eq!(&op.encode()[..], b"\x1a\x0a\x0a\x01x\x12\x05\x0a\x01a\x12\x00");
    let wire = rbuild_api::pb::Op::decode(op.encode()).unwrap();
    assert_eq!(Op::from_wire(wire).unwrap(), op);
}

#[test]
fn no_test_file_is_forgotten() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let me = std::fs::read_to_string(format!("{dir}/main.rs")).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") else { continue };
        assert!(me.contains(&format!("mod {module};")), "{name}");
    }
}
