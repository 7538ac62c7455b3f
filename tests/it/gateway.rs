//! Builds that a client drives, through raw calls.

use std::time::Duration;

use rbuild_api::moby::buildkit::v1::SolveRequest;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::exec_message::Input;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use rbuild_api::pb;
use rbuild_digest::random_id;
use rbuild_llb::{ExecOptions, ImageOptions, MarshalOptions, State};
use rbuild_tests::{TestDaemon, processes, wait_until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::wire::{block_on, channel};

/// A build of ours, driven by calls.
struct Driven {
    bridge: LlbBridgeClient<Channel>,
    id: String,
    solve: tokio::task::JoinHandle<Result<(), Status>>,
}

impl Driven {
    async fn start(daemon: &TestDaemon) -> Self {
        let channel = channel(daemon).await;
        let id = random_id();
        let request = SolveRequest { r#ref: id.clone(), ..SolveRequest::default() };
        let mut control = ControlClient::new(channel.clone());
        let solve = tokio::spawn(async move { control.solve(request).await.map(drop) });
        Self { bridge: LlbBridgeClient::new(channel), id, solve }
    }

    fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("buildkit-controlapi-buildid", self.id.parse().unwrap());
        request
    }

    async fn solve(&mut self, state: &State) -> Result<String, Status> {
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

    async fn finish(mut self) -> Result<(), Status> {
        let request = self.call(wire::ReturnRequest { result: Some(wire::Result::default()), error: None });
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
        assert_eq!(build.bridge.stat_file(stat).await.unwrap().into_inner().stat.unwrap().linkname, "f");
        build.finish().await.unwrap();
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
        loop {
            let reply = replies.message().await.unwrap().unwrap();
            if matches!(reply.input, Some(Input::File(file)) if file.data == b"ready\n") {
                break;
            }
        }
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
