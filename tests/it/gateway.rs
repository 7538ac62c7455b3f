//! Builds that a client drives, through raw calls: what the scenarios of results and of containers have in common.

use rbuild_api::moby::buildkit::v1::SolveRequest;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::exec_message::Input;
use rbuild_api::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use rbuild_api::pb;
use rbuild_digest::random_id;
use rbuild_llb::{ExecOptions, ImageOptions, MarshalOptions, State};
use rbuild_tests::TestDaemon;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::wire::channel;

/// A build of ours, driven by calls.
pub(crate) struct Driven {
    pub(crate) bridge: LlbBridgeClient<Channel>,
    pub(crate) id: String,
    pub(crate) solve: tokio::task::JoinHandle<Result<(), Status>>,
}

impl Driven {
    pub(crate) async fn start(daemon: &TestDaemon) -> Self {
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

    pub(crate) fn call<T>(&self, message: T) -> Request<T> {
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

    pub(crate) async fn container(&mut self, id: &str, root: &str) -> Result<(), Status> {
        let mount = pb::Mount { dest: "/".into(), result_id: root.into(), ..pb::Mount::default() };
        self.container_of(id, vec![mount], pb::NetMode::Unset).await
    }

    pub(crate) async fn container_of(
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

    pub(crate) async fn finish(self) -> Result<(), Status> {
        self.finish_with(wire::Result::default()).await
    }

    /// Ends the build with that result.
    pub(crate) async fn finish_with(mut self, result: wire::Result) -> Result<(), Status> {
        let request = self.call(wire::ReturnRequest { result: Some(result), error: None });
        self.bridge.r#return(request).await?;
        self.solve.await.unwrap()
    }

    pub(crate) async fn exec(
        &mut self,
    ) -> (mpsc::Sender<wire::ExecMessage>, tonic::Streaming<wire::ExecMessage>) {
        let (to, messages) = mpsc::channel(64);
        let request = self.call(ReceiverStream::new(messages));
        (to, self.bridge.exec_process(request).await.unwrap().into_inner())
    }

    /// Runs a shell command to its end: exit code, standard output, standard error.
    pub(crate) async fn run(&mut self, container: &str, command: &str) -> (u32, String, String) {
        let (to, replies) = self.exec().await;
        to.send(message("p", init(container, command, false))).await.unwrap();
        drop(to);
        let (exit, out, err) = collect(replies).await;
        (exit.code, out, err)
    }
}

pub(crate) fn message(id: &str, input: Input) -> wire::ExecMessage {
    wire::ExecMessage { process_id: id.into(), input: Some(input) }
}

pub(crate) fn init(container: &str, command: &str, tty: bool) -> Input {
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

pub(crate) async fn collect(
    mut replies: tonic::Streaming<wire::ExecMessage>,
) -> (wire::ExitMessage, String, String) {
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
pub(crate) async fn until_ready(replies: &mut tonic::Streaming<wire::ExecMessage>) {
    loop {
        let reply = replies.message().await.unwrap().unwrap();
        if matches!(reply.input, Some(Input::File(file)) if file.data == b"ready\n") {
            return;
        }
    }
}

pub(crate) fn busybox() -> State {
    State::image("busybox", ImageOptions::default()).unwrap()
}

pub(crate) fn shell(command: &str) -> ExecOptions {
    let args = ["/bin/sh", "-c", command].map(String::from).to_vec();
    ExecOptions { args, ..ExecOptions::default() }
}
