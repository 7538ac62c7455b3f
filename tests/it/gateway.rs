//! Builds that a client drives, through raw calls.

use std::time::Duration;

use prost::Message as _;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::exec_message::Input;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use rbuild_api::moby::buildkit::v1::sourcepolicy::{self, PolicyAction};
use rbuild_api::moby::buildkit::v1::{DiskUsageRequest, SolveRequest, StatusRequest, StatusResponse};
use rbuild_api::pb;
use rbuild_digest::random_id;
use rbuild_llb::{Constraints, ExecOptions, FileActions, ImageOptions, MarshalOptions, MkfileAction, State};
use rbuild_tests::{TestDaemon, TestSpace, processes, registry, wait_until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::wire::{block_on, channel};

/// A build of ours, driven by calls.
pub(crate) struct Driven {
    pub(crate) bridge: LlbBridgeClient<Channel>,
    id: String,
    solve: tokio::task::JoinHandle<Result<(), Status>>,
}

impl Driven {
    async fn start(daemon: &TestDaemon) -> Self {
        Self::start_with(daemon, SolveRequest::default()).await
    }

    pub(crate) async fn start_with(daemon: &TestDaemon, request: SolveRequest) -> Self {
        let channel = channel(daemon).await;
        let id = random_id();
        let request = SolveRequest { r#ref: id.clone(), ..request };
        let mut control = ControlClient::new(channel.clone());
        let solve = tokio::spawn(async move { control.solve(request).await.map(drop) });
        Self { bridge: LlbBridgeClient::new(channel), id, solve }
    }

    fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("buildkit-controlapi-buildid", self.id.parse().unwrap());
        request
    }

    pub(crate) async fn solve(&mut self, state: &State) -> Result<String, Status> {
        let request = self.call(wire::SolveRequest {
            definition: Some(state.marshal(&MarshalOptions::default()).unwrap().to_wire()),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            ..Default::default()
        });
        match self.bridge.solve(request).await?.into_inner().result.unwrap().result.unwrap() {
            wire::result::Result::Ref(reference) => Ok(reference.id),
            other => panic!("{other:?}"),
        }
    }

    async fn container(&mut self, id: &str, root: &str) -> Result<(), Status> {
        let mount = pb::Mount { dest: "/".into(), result_id: root.into(), ..pb::Mount::default() };
        self.container_of(id, vec![mount], pb::NetMode::Unset).await
    }

    async fn container_of(
        &mut self,
        id: &str,
        mounts: Vec<pb::Mount>,
        network: pb::NetMode,
    ) -> Result<(), Status> {
        let request = self.call(wire::NewContainerRequest {
            container_id: id.into(),
            mounts,
            network: network.into(),
            extra_hosts: vec![pb::HostIp { host: "there".into(), ip: "10.1.2.3".into() }],
            hostname: "here".into(),
            ..Default::default()
        });
        self.bridge.new_container(request).await.map(drop)
    }

    async fn finish(self) -> Result<(), Status> {
        self.finish_with(wire::Result::default()).await
    }

    /// Ends the build with that result.
    pub(crate) async fn finish_with(mut self, result: wire::Result) -> Result<(), Status> {
        let request = self.call(wire::ReturnRequest { result: Some(result), error: None });
        self.bridge.r#return(request).await?;
        self.solve.await.unwrap()
    }

    async fn exec(&mut self) -> (mpsc::Sender<wire::ExecMessage>, tonic::Streaming<wire::ExecMessage>) {
        let (to, messages) = mpsc::channel(64);
        let request = self.call(ReceiverStream::new(messages));
        (to, self.bridge.exec_process(request).await.unwrap().into_inner())
    }

    /// Runs a shell command to its end: exit code, standard output, standard error.
    async fn run(&mut self, container: &str, command: &str) -> (u32, String, String) {
        let (to, replies) = self.exec().await;
        to.send(message("p", init(container, command, false))).await.unwrap();
        drop(to);
        let (exit, out, err) = collect(replies).await;
        (exit.code, out, err)
    }
}

fn message(id: &str, input: Input) -> wire::ExecMessage {
    wire::ExecMessage { process_id: id.into(), input: Some(input) }
}

fn init(container: &str, command: &str, tty: bool) -> Input {
    Input::Init(wire::InitMessage {
        container_id: container.into(),
        meta: Some(pb::Meta {
            args: ["/bin/sh", "-c", command].map(String::from).to_vec(),
            env: vec!["GREETING=hello".into()],
            cwd: "/tmp".into(),
            ..pb::Meta::default()
        }),
        fds: vec![0, 1, 2],
        tty,
        ..Default::default()
    })
}

async fn collect(mut replies: tonic::Streaming<wire::ExecMessage>) -> (wire::ExitMessage, String, String) {
    let (mut out, mut err, mut exit) = (Vec::new(), Vec::new(), None);
    while let Some(reply) = replies.message().await.unwrap() {
        match reply.input.unwrap() {
            Input::File(file) if file.fd == 2 => err.extend(file.data),
            Input::File(file) => out.extend(file.data),
            Input::Exit(message) => exit = Some(message),
            Input::Done(_) => {
                assert!(exit.is_some(), "done before the exit code");
                break;
            }
            _ => {}
        }
    }
    (exit.unwrap(), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Waits for a process to say that it is ready.
async fn until_ready(replies: &mut tonic::Streaming<wire::ExecMessage>) {
    loop {
        let reply = replies.message().await.unwrap().unwrap();
        if matches!(reply.input, Some(Input::File(file)) if file.data == b"ready\n") {
            return;
        }
    }
}

fn busybox() -> State {
    State::image("busybox", ImageOptions::default()).unwrap()
}

#[test]
fn files_of_results_are_read_and_results_are_returned() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let pong = build.bridge.ping(build.call(wire::PingRequest {})).await.unwrap().into_inner();
        for wanted in ["gateway.exec", "gateway.exec.signals", "readfile", "returnmap"] {
            assert!(pong.frontend_api_caps.iter().any(|cap| cap.id == wanted && cap.enabled), "{wanted}");
        }
        let made = busybox().run(shell("mkdir /d; echo one > /d/f; ln -s f /d/l")).root();
        let root = build.solve(&made).await.unwrap();
        let read =
            wire::ReadFileRequest { r#ref: root.clone(), file_path: "/d/l".into(), ..Default::default() };
        let read = build.call(read);
        assert_eq!(build.bridge.read_file(read).await.unwrap().into_inner().data, b"one\n");
        let list = wire::ReadDirRequest { r#ref: root.clone(), dir_path: "/d".into(), ..Default::default() };
        let list = build.call(list);
        let entries = build.bridge.read_dir(list).await.unwrap().into_inner().entries;
        assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["f", "l"]);
        let stat = build.call(wire::StatFileRequest { r#ref: root, path: "/d/l".into(), mount_index: 0 });
        // What the link leads to, as upstream answers.
        let stat = build.bridge.stat_file(stat).await.unwrap().into_inner().stat.unwrap();
        assert_eq!((stat.path.as_str(), stat.linkname.as_str(), stat.size), ("f", "", 4));
        build.finish().await.unwrap();
    });
}

fn text_file(path: &str, text: &str) -> State {
    let file = MkfileAction {
        path: path.into(),
        mode: 0o644,
        data: text.as_bytes().to_vec().into(),
        owner: None,
        timestamp_ns: None,
    };
    State::scratch().file(FileActions::new().mkfile(file), Constraints::default())
}

#[test]
fn ranges_links_and_lists_are_read_and_mistakes_are_told() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox().run(shell("mkdir /d; seq 9 > /d/f; touch /d/g.txt")).root()).await;
        let root = root.unwrap();
        let file = |path: &str, range: Option<(i64, i64)>| wire::ReadFileRequest {
            r#ref: root.clone(),
            file_path: path.into(),
            range: range.map(|(offset, length)| wire::FileRange { offset, length }),
            ..Default::default()
        };
        let read = build.call(file("/d/f", Some((2, 4))));
        assert_eq!(build.bridge.read_file(read).await.unwrap().into_inner().data, b"2\n3\n");
        for (path, range, code) in [
            ("/d/none", None, Code::NotFound),
            ("/d/f", Some((-1, 4)), Code::InvalidArgument),
            ("/../../../etc/none", None, Code::NotFound),
        ] {
            let read = build.call(file(path, range));
            assert_eq!(build.bridge.read_file(read).await.unwrap_err().code(), code, "{path}");
        }
        let list = build.call(wire::ReadDirRequest {
            r#ref: root.clone(),
            dir_path: "/d".into(),
            include_pattern: "*.txt".into(),
            ..Default::default()
        });
        let entries = build.bridge.read_dir(list).await.unwrap().into_inner().entries;
        assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["g.txt"]);
        for id in ["", "made up"] {
            let stat =
                build.call(wire::StatFileRequest { r#ref: id.into(), path: "/".into(), mount_index: 0 });
            assert_eq!(build.bridge.stat_file(stat).await.unwrap_err().code(), Code::NotFound, "{id:?}");
        }
        build.finish().await.unwrap();
    });
}

#[test]
fn images_and_sources_are_resolved() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let image = |name: &str, mode: &str| wire::ResolveImageConfigRequest {
            r#ref: name.into(),
            resolve_mode: mode.into(),
            ..Default::default()
        };
        let busybox = "docker.io/library/busybox:latest";
        let ask = build.call(image(busybox, "default"));
        let config = build.bridge.resolve_image_config(ask).await.unwrap().into_inner();
        assert!(config.digest.starts_with("sha256:") && config.config.starts_with(b"{"));
        let source = |identifier: &str| wire::ResolveSourceMetaRequest {
            source: Some(pb::SourceOp { identifier: identifier.into(), attrs: Default::default() }),
            ..Default::default()
        };
        let ask = build.call(source(&format!("docker-image://{busybox}")));
        let meta = build.bridge.resolve_source_meta(ask).await.unwrap().into_inner();
        assert_eq!(meta.image.unwrap().digest, config.digest);
        let ask = build.call(image(busybox, "sometimes"));
        assert_eq!(build.bridge.resolve_image_config(ask).await.unwrap_err().code(), Code::InvalidArgument);
        let ask = build.call(image("docker.io/library/nosuch:1", "default"));
        assert_eq!(build.bridge.resolve_image_config(ask).await.unwrap_err().code(), Code::NotFound);
        let ask = build.call(wire::ResolveSourceMetaRequest::default());
        assert_eq!(build.bridge.resolve_source_meta(ask).await.unwrap_err().code(), Code::InvalidArgument);
        build.finish().await.unwrap();
    });
}

#[test]
fn frontends_run_with_inputs_and_their_results_are_refs() {
    let daemon = TestDaemon::start();
    block_on(async {
        let wired = |state: &State| state.marshal(&MarshalOptions::default()).unwrap().to_wire();
        let inputs = [("mine".to_owned(), wired(&text_file("/x", "of mine")))];
        let request = SolveRequest { frontend_inputs: inputs.clone().into(), ..SolveRequest::default() };
        let mut build = Driven::start_with(&daemon, request).await;
        let ask = build.call(wire::InputsRequest {});
        let told = build.bridge.inputs(ask).await.unwrap().into_inner().definitions;
        assert_eq!(told["mine"].def, inputs[0].1.def);
        let dockerfile = text_file("/Dockerfile", "FROM busybox\nCOPY x /y\nRUN cat /y > /z\n");
        let solve = wire::SolveRequest {
            frontend: "dockerfile.v0".into(),
            frontend_inputs: [
                ("dockerfile".to_owned(), wired(&dockerfile)),
                ("context".to_owned(), told["mine"].clone()),
            ]
            .into(),
            allow_result_return: true,
            ..Default::default()
        };
        let ask = build.call(solve.clone());
        let result = build.bridge.solve(ask).await.unwrap().into_inner().result.unwrap();
        // Who does not ask for definitions gets ids alone.
        let Some(wire::result::Result::RefDeprecated(id)) = result.result else { panic!("{result:?}") };
        assert!(result.metadata.contains_key("containerimage.config"));
        let read = wire::ReadFileRequest { r#ref: id, file_path: "/z".into(), ..Default::default() };
        let read = build.call(read);
        assert_eq!(build.bridge.read_file(read).await.unwrap().into_inner().data, b"of mine");
        let both = wire::SolveRequest { definition: Some(wired(&busybox())), ..solve.clone() };
        let ask = build.call(both);
        assert_eq!(build.bridge.solve(ask).await.unwrap_err().code(), Code::InvalidArgument);
        let ask = build.call(wire::SolveRequest { frontend: "nosuch.v0".into(), ..solve });
        let error = build.bridge.solve(ask).await.unwrap_err();
        assert!(error.message().contains("frontend `nosuch.v0` not found"), "{error}");
        build.finish().await.unwrap();
    });
}

#[test]
fn a_solve_may_name_caches_to_look_into() {
    let (first, second) = (TestDaemon::start(), TestDaemon::start());
    let text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
    let space = TestSpace::new();
    space.write("Dockerfile", text);
    let cache = format!("{}/gateway-cache:{}", registry().host, random_id());
    let export = format!("type=registry,ref={cache},mode=max");
    let args = ["build", "--cache-to", &export, "-o", "made", "."];
    first.ctl(space.path(), &args).success();
    block_on(async {
        let mut build = Driven::start(&second).await;
        let events = ControlClient::new(channel(&second).await)
            .status(StatusRequest { r#ref: build.id.clone() })
            .await
            .unwrap()
            .into_inner();
        let import = wire::CacheOptionsEntry {
            r#type: "registry".into(),
            attrs: [("ref".to_owned(), cache.clone())].into(),
        };
        let wired = |state: &State| state.marshal(&MarshalOptions::default()).unwrap().to_wire();
        let ask = build.call(wire::SolveRequest {
            frontend: "dockerfile.v0".into(),
            frontend_inputs: [
                ("dockerfile".to_owned(), wired(&text_file("/Dockerfile", text))),
                ("context".to_owned(), wired(&text_file("/none", ""))),
            ]
            .into(),
            // Twice is once.
            cache_imports: vec![import.clone(), import],
            allow_result_return: true,
            evaluate: true,
            ..Default::default()
        });
        let result = build.bridge.solve(ask).await.unwrap().into_inner().result.unwrap();
        let Some(wire::result::Result::RefDeprecated(id)) = result.result else { panic!("{result:?}") };
        let read = wire::ReadFileRequest { r#ref: id, file_path: "/id".into(), ..Default::default() };
        let read = build.call(read);
        let read = build.bridge.read_file(read).await.unwrap().into_inner().data;
        assert_eq!(String::from_utf8(read).unwrap(), space.read("made/id"), "the step has run again");
        build.finish().await.unwrap();
        let imports = vertices(events).await.into_iter().filter(|name| name.contains("importing cache"));
        assert_eq!(imports.count(), 1);
    });
}

/// The names of a build's vertices.
async fn vertices(mut events: tonic::Streaming<StatusResponse>) -> std::collections::BTreeSet<String> {
    let mut seen = std::collections::BTreeMap::new();
    while let Some(event) = events.message().await.unwrap() {
        seen.extend(event.vertexes.into_iter().map(|vertex| (vertex.digest, vertex.name)));
    }
    seen.into_values().collect()
}

#[test]
fn a_solve_may_bring_rules_on_its_sources() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let rule = |action: PolicyAction, to: Option<&str>| sourcepolicy::Policy {
            version: 1,
            rules: vec![sourcepolicy::Rule {
                action: action.into(),
                selector: Some(sourcepolicy::Selector {
                    identifier: "docker-image://docker.io/library/*".into(),
                    ..Default::default()
                }),
                updates: to
                    .map(|to| sourcepolicy::Update { identifier: to.into(), attrs: Default::default() }),
            }],
        };
        let state = |name: &str| State::image(name, ImageOptions::default()).unwrap();
        let solve = |name: &str, policy: sourcepolicy::Policy| wire::SolveRequest {
            definition: Some(state(name).marshal(&MarshalOptions::default()).unwrap().to_wire()),
            source_policies: vec![policy],
            evaluate: true,
            ..Default::default()
        };
        let ask = build.call(solve("busybox", rule(PolicyAction::Deny, None)));
        let error = build.bridge.solve(ask).await.unwrap_err();
        assert!(error.message().contains("rule 1 (DENY"), "{error}");
        let to = "docker-image://docker.io/library/busybox:latest";
        let ask = build.call(solve("nosuch", rule(PolicyAction::Convert, Some(to))));
        build.bridge.solve(ask).await.unwrap();
        let ask = build.call(wire::ResolveImageConfigRequest {
            r#ref: "busybox".into(),
            source_policies: vec![rule(PolicyAction::Deny, None)],
            ..Default::default()
        });
        let error = build.bridge.resolve_image_config(ask).await.unwrap_err();
        assert!(error.message().contains("rule 1 (DENY"), "{error}");
        // They were of those requests only.
        build.solve(&busybox()).await.unwrap();
        build.finish().await.unwrap();
    });
}

#[test]
fn warnings_are_shown_and_a_build_returns_once() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let mut events = ControlClient::new(channel(&daemon).await)
            .status(StatusRequest { r#ref: build.id.clone() })
            .await
            .unwrap()
            .into_inner();
        let ask = build.call(wire::WarnRequest { digest: "nonsense".into(), ..Default::default() });
        assert_eq!(build.bridge.warn(ask).await.unwrap_err().code(), Code::InvalidArgument);
        let digest = rbuild_digest::Digest::of("vertex").to_string();
        let short = b"mind the gap".to_vec();
        let ask = build.call(wire::WarnRequest { digest, short, level: 1, ..Default::default() });
        build.bridge.warn(ask).await.unwrap();
        let returning = || wire::ReturnRequest { result: Some(wire::Result::default()), error: None };
        let (mut again, first, second) =
            (build.bridge.clone(), build.call(returning()), build.call(returning()));
        build.bridge.r#return(first).await.unwrap();
        // By now the build may be gone altogether.
        let code = again.r#return(second).await.unwrap_err().code();
        assert!(matches!(code, Code::InvalidArgument | Code::NotFound), "{code:?}");
        build.solve.await.unwrap().unwrap();
        let mut shown = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            shown.extend(event.warnings.into_iter().map(|warning| warning.short));
        }
        assert_eq!(shown, [b"mind the gap"]);
    });
}

/// The ids of what a failed step's mounts were left with.
fn left(status: &Status) -> Vec<String> {
    let rpc = rbuild_api::google::rpc::Status::decode(status.details()).unwrap();
    let detail = rpc.details.iter().find(|any| any.type_url.contains("errdefs.Solve")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&detail.value).unwrap();
    assert!(json["op"]["exec"]["meta"]["args"].is_array(), "{json}");
    assert_eq!(json["inputIDs"].as_array().unwrap().len(), json["mountIDs"].as_array().unwrap().len());
    json["mountIDs"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_failed_step_left_can_be_mounted_by_its_build() {
    let daemon = TestDaemon::start();
    block_on(async {
        let (mut build, mut other) = (Driven::start(&daemon).await, Driven::start(&daemon).await);
        let failing = busybox().run(shell("echo left > /written; exit 7")).root();
        let error = build.solve(&failing).await.unwrap_err();
        assert!(error.message().ends_with("exit code: 7"), "{error}");
        let ids = left(&error);
        build.container("c", &ids[0]).await.unwrap();
        assert_eq!(build.run("c", "cat /written; echo more >> /written").await.1, "left\n");
        // It is no result, and it is nobody else's; another container begins anew.
        let stat =
            build.call(wire::StatFileRequest { r#ref: ids[0].clone(), path: "/".into(), mount_index: 0 });
        assert_eq!(build.bridge.stat_file(stat).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(other.container("c", &ids[0]).await.unwrap_err().code(), Code::NotFound);
        build.container("d", &ids[0]).await.unwrap();
        assert_eq!(build.run("d", "cat /written").await.1, "left\n");
        build.finish().await.unwrap();
        other.finish().await.unwrap();
        let mut control = ControlClient::new(channel(&daemon).await);
        let usage = control.disk_usage(DiskUsageRequest::default()).await.unwrap().into_inner().record;
        assert!(!usage.is_empty());
        assert!(!usage.iter().any(|record| record.description.contains("/written")), "{usage:?}");
    });
}

#[test]
fn an_error_that_is_returned_is_the_builds() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let error =
            rbuild_api::google::rpc::Status { code: 2, message: "as I say".into(), details: Vec::new() };
        let request = build.call(wire::ReturnRequest { result: None, error: Some(error) });
        build.bridge.r#return(request).await.unwrap();
        assert_eq!(build.solve.await.unwrap().unwrap_err().message(), "as I say");
    });
}

#[test]
fn a_process_sees_what_its_container_says() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        let (code, out, err) = build
            .run("c", "echo $GREETING $(pwd) $(hostname); grep -c 10.1.2.3 /etc/hosts; echo no >&2; exit 5")
            .await;
        assert_eq!((code, out.as_str(), err.as_str()), (5, "hello /tmp here\n1\n", "no\n"));
        // Another process of the container sees what the first has written; the result does not change.
        build.run("c", "echo x > /written").await;
        assert_eq!(build.run("c", "cat /written").await.1, "x\n");
        let stat = build.call(wire::StatFileRequest { r#ref: root, path: "/written".into(), mount_index: 0 });
        assert_eq!(build.bridge.stat_file(stat).await.unwrap_err().code(), Code::NotFound);
        let release = build.call(wire::ReleaseContainerRequest { container_id: "c".into() });
        build.bridge.release_container(release).await.unwrap();
        let (to, mut replies) = build.exec().await;
        to.send(message("p", init("c", "true", false))).await.unwrap();
        assert_eq!(replies.message().await.unwrap_err().code(), Code::NotFound);
        build.finish().await.unwrap();
    });
}

#[test]
fn processes_of_a_container_run_side_by_side() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        // Both on one stream, told apart by their ids.
        let (to, mut replies) = build.exec().await;
        let first = "echo first > /f; while [ ! -e /end ]; do sleep 0.05; done; exit 8";
        to.send(message("one", init("c", first, false))).await.unwrap();
        loop {
            let reply = replies.message().await.unwrap().unwrap();
            if matches!(reply.input, Some(Input::Started(_))) {
                break;
            }
        }
        let second = "until [ -e /f ]; do sleep 0.05; done; cat /f; hostname; kill -0 1 && touch /end";
        to.send(message("two", init("c", second, false))).await.unwrap();
        drop(to);
        let (mut out, mut codes) = (Vec::new(), Vec::new());
        while let Some(reply) = replies.message().await.unwrap() {
            match reply.input.unwrap() {
                Input::File(file) if reply.process_id == "two" => out.extend(file.data),
                Input::Exit(exit) => codes.push((reply.process_id, exit.code)),
                _ => {}
            }
        }
        codes.sort();
        assert_eq!(String::from_utf8(out).unwrap(), "first\nhere\n");
        // The second may be taken along by the end of the first.
        assert_eq!(codes[0], ("one".to_owned(), 8));
        assert!(codes[1].1 == 0 || codes[1].1 == 137, "{codes:?}");
        build.finish().await.unwrap();
    });
}

#[test]
fn files_of_a_containers_mounts_are_read_while_its_processes_run() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        let bind = |dest: &str, readonly: bool| pb::Mount {
            dest: dest.into(),
            result_id: root.clone(),
            readonly,
            ..pb::Mount::default()
        };
        let kind = |dest: &str, kind: pb::MountType| pb::Mount {
            dest: dest.into(),
            mount_type: kind.into(),
            cache_opt: Some(pb::CacheOpt { id: random_id(), sharing: 0 }),
            ..pb::Mount::default()
        };
        let (tmpfs, cache) = (kind("/t", pb::MountType::Tmpfs), kind("/c", pb::MountType::Cache));
        let mounts = vec![bind("/", false), bind("/ro", true), tmpfs, cache];
        build.container_of("c", mounts, pb::NetMode::Unset).await.unwrap();
        let (to, mut replies) = build.exec().await;
        let command = "echo w > /written; rm -r /tmp; echo k > /c/k; echo t > /t/t; echo ready; read x";
        to.send(message("p", init("c", command, false))).await.unwrap();
        until_ready(&mut replies).await;
        let file = |container: &str, path: &str, mount_index| wire::ReadFileRequest {
            r#ref: container.into(),
            file_path: path.into(),
            mount_index,
            range: None,
        };
        for (path, mount, text) in [("/written", 0, "w\n"), ("/k", 3, "k\n")] {
            let ask = build.call(file("c", path, mount));
            let data = build.bridge.read_file_container(ask).await.unwrap().into_inner().data;
            assert_eq!(String::from_utf8(data).unwrap(), text);
        }
        let list =
            build.call(wire::ReadDirRequest { r#ref: "c".into(), mount_index: 1, ..Default::default() });
        let names = build.bridge.read_dir_container(list).await.unwrap().into_inner().entries;
        assert!(names.iter().any(|entry| entry.path == "tmp"), "the image itself is as it was");
        for (container, path, mount, code) in [
            ("c", "/t", 2, Code::NotFound),
            ("c", "/written", 1, Code::NotFound),
            ("c", "/c/k", 0, Code::NotFound),
            ("c", "/written", 4, Code::InvalidArgument),
            ("c", "/written", -1, Code::InvalidArgument),
            ("d", "/written", 0, Code::NotFound),
        ] {
            let ask = build.call(file(container, path, mount));
            let error = build.bridge.read_file_container(ask).await.unwrap_err();
            assert_eq!(error.code(), code, "{container} {path} {mount}: {error}");
        }
        let stat =
            |path: &str| wire::StatFileRequest { r#ref: "c".into(), path: path.into(), mount_index: 0 };
        let ask = build.call(stat("/written"));
        let found = build.bridge.stat_file_container(ask).await.unwrap().into_inner().stat.unwrap();
        assert_eq!(found.size, 2);
        let ask = build.call(stat("/tmp"));
        assert_eq!(build.bridge.stat_file_container(ask).await.unwrap_err().code(), Code::NotFound);
        drop((to, replies));
        build.finish().await.unwrap();
    });
}

#[test]
fn a_terminal_has_a_size_and_signals_arrive() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        let (to, replies) = build.exec().await;
        let command = "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.1; done; read x; echo got $x; tty";
        to.send(message("p", init("c", command, true))).await.unwrap();
        to.send(message("p", Input::Resize(wire::ResizeMessage { rows: 33, cols: 77 }))).await.unwrap();
        let typed = wire::FdMessage { fd: 0, eof: false, data: b"typed\n".to_vec() };
        to.send(message("p", Input::File(typed))).await.unwrap();
        let (exit, out, _) = collect(replies).await;
        assert_eq!(exit.code, 0);
        assert!(out.contains("got typed\r\n/dev/"), "{out:?}");
        drop(to);
        let (to, mut replies) = build.exec().await;
        let trap = "trap 'echo caught; exit 9' TERM; echo ready; while true; do sleep 1; done";
        to.send(message("p", init("c", trap, false))).await.unwrap();
        until_ready(&mut replies).await;
        to.send(message("p", Input::Signal(wire::SignalMessage { name: "SIGTERM".into() }))).await.unwrap();
        let (exit, out, _) = collect(replies).await;
        assert_eq!((exit.code, out.as_str()), (9, "caught\n"));
        build.finish().await.unwrap();
    });
}

#[test]
fn processes_end_with_their_build_and_with_their_client() {
    let daemon = TestDaemon::start();
    block_on(async {
        for (seconds, ends_build) in [("86411", true), ("86412", false)] {
            let mut build = Driven::start(&daemon).await;
            let root = build.solve(&busybox()).await.unwrap();
            build.container("c", &root).await.unwrap();
            let (to, replies) = build.exec().await;
            to.send(message("p", init("c", &format!("exec sleep {seconds}"), false))).await.unwrap();
            wait_until("the process runs", || processes(&["sleep", seconds]) == 1);
            if ends_build {
                build.finish().await.unwrap();
                assert_eq!(processes(&["sleep", seconds]), 0, "a process outlived its build");
                drop((to, replies));
            } else {
                drop((to, replies));
                wait_until("the process is gone", || processes(&["sleep", seconds]) == 0);
                build.finish().await.unwrap();
            }
        }
    });
}

#[test]
fn a_process_ends_with_its_container_and_one_that_cannot_begin_is_told_of_in_order() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        // Clients of every kind take the start for the first message, whatever comes of it.
        let Input::Init(nothing) = init("c", "true", false) else { panic!() };
        let nothing = wire::InitMessage { meta: Some(pb::Meta::default()), ..nothing };
        let (to, mut replies) = build.exec().await;
        to.send(message("p", Input::Init(nothing))).await.unwrap();
        let first = replies.message().await.unwrap().unwrap();
        assert!(matches!(first.input, Some(Input::Started(_))), "{first:?}");
        let (exit, ..) = collect(replies).await;
        let error = exit.error.unwrap();
        assert!(exit.code != 0 && error.message.contains("arguments"), "{error:?}");
        let (to, replies) = build.exec().await;
        to.send(message("p", init("c", "exec sleep 86413", false))).await.unwrap();
        wait_until("the process runs", || processes(&["sleep", "86413"]) == 1);
        let release = build.call(wire::ReleaseContainerRequest { container_id: "c".into() });
        build.bridge.release_container(release).await.unwrap();
        let (exit, ..) = collect(replies).await;
        assert!(exit.error.unwrap().message.contains("released"));
        wait_until("the process is gone", || processes(&["sleep", "86413"]) == 0);
        build.finish().await.unwrap();
    });
}

#[test]
fn what_makes_no_sense_or_is_not_granted_is_refused() {
    let daemon = TestDaemon::start();
    block_on(async {
        let (mut build, mut other) = (Driven::start(&daemon).await, Driven::start(&daemon).await);
        let root = build.solve(&busybox()).await.unwrap();
        let theirs = other.solve(&busybox()).await.unwrap();
        // What belongs to another build does not exist.
        assert_eq!(build.container("c", &theirs).await.unwrap_err().code(), Code::NotFound);
        build.container("c", &root).await.unwrap();
        assert_eq!(build.container("c", &root).await.unwrap_err().code(), Code::AlreadyExists);
        assert_eq!(build.container("../c", &root).await.unwrap_err().code(), Code::InvalidArgument);
        let no_root = build.container_of("d", Vec::new(), pb::NetMode::Unset).await.unwrap_err();
        assert!(no_root.message().contains("root mount"), "{no_root}");
        let mount = pb::Mount { dest: "/".into(), result_id: root.clone(), ..pb::Mount::default() };
        let host = build.container_of("d", vec![mount], pb::NetMode::Host).await.unwrap_err();
        assert!(host.message().contains("network.host"), "{host}");
        let (to, mut replies) = other.exec().await;
        to.send(message("p", init("c", "true", false))).await.unwrap();
        assert_eq!(replies.message().await.unwrap_err().code(), Code::NotFound);
        let (to, replies) = build.exec().await;
        let Input::Init(mut insecure) = init("c", "true", false) else { panic!() };
        insecure.security = pb::SecurityMode::Insecure.into();
        to.send(message("p", Input::Init(insecure))).await.unwrap();
        drop(to);
        let (exit, ..) = collect(replies).await;
        assert!(exit.error.unwrap().message.contains("security.insecure"));
        let mut nobody = Driven { id: random_id(), ..Driven::start(&daemon).await };
        let unknown = tokio::time::timeout(Duration::from_secs(60), nobody.solve(&busybox())).await.unwrap();
        assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
        build.finish().await.unwrap();
        other.finish().await.unwrap();
    });
}

fn shell(command: &str) -> ExecOptions {
    let args = ["/bin/sh", "-c", command].map(String::from).to_vec();
    ExecOptions { args, ..ExecOptions::default() }
}
