//! Containers of a build that a client drives, on the wire: one stream carries the messages of any number of
//! processes, told apart by an id of the client's.
//!
//! The client sends `Init`, then data of standard input, sizes and signals; it gets `Started`, data, the end of each
//! output, `Exit` and `Done`. All of it lives in the response stream: when that is dropped the processes are killed.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::exec_message::Input;
use rbuild_api::pb;
use rbuild_digest::{Digest, is_safe_id};
use rbuild_frontend::{BuildError, ContainerProcess, ContainerRequest, ErrorCode};
use rbuild_llb::{ExecOp, Op, OpKind};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tonic::{Status, Streaming};

use crate::{ForwardedBuild, to_rpc_status, to_status};

/// Messages to the client on their way; the bound is what a slow client holds up.
const REPLIES: usize = 16;
/// Pieces of standard input that a process has not read. Beyond, messages of its stream wait.
const INPUT: usize = 16;
/// Sizes and signals that wait to be delivered; more in a moment are a client gone wild, and are dropped.
const CONTROLS: usize = 16;
/// Processes of one stream at a time.
const MAX_PROCESSES: usize = 100;
/// What upstream's clients take for a process that did not get to have an exit code.
const UNKNOWN_EXIT: u32 = 255;

type Reply = Result<wire::ExecMessage, Status>;

/// A container's mounts and network as the op of a step has them, so that the same rules hold.
pub(crate) fn request(
    build: &ForwardedBuild,
    wire: wire::NewContainerRequest,
) -> Result<ContainerRequest, BuildError> {
    let mut inputs = Vec::new();
    let mut mounts = wire.mounts;
    for mount in &mut mounts {
        // What a client says of inputs and outputs is about ops that do not exist here.
        (mount.input, mount.output) = (-1, -1);
        if !mount.result_id.is_empty() {
            mount.input = i64::try_from(inputs.len()).unwrap_or(-1);
            inputs.push(build.mountable(&std::mem::take(&mut mount.result_id))?);
        }
    }
    let meta = pb::Meta {
        args: vec!["container".into()],
        cwd: "/".into(),
        hostname: wire.hostname,
        extra_hosts: wire.extra_hosts,
        ..pb::Meta::default()
    };
    let exec = pb::ExecOp { meta: Some(meta), mounts, network: wire.network, ..pb::ExecOp::default() };
    let exec = exec_op(exec, inputs.len())?;
    let platform = wire.platform.map(|platform| rbuild_llb::platform_from_wire(&platform));
    Ok(ContainerRequest { exec, inputs, platform })
}

fn exec_op(exec: pb::ExecOp, inputs: usize) -> Result<ExecOp, BuildError> {
    let input = |index: usize| pb::Input { digest: Digest::of(index.to_le_bytes()).to_string(), index: 0 };
    let op = pb::Op {
        inputs: (0..inputs).map(input).collect(),
        op: Some(pb::op::Op::Exec(exec)),
        ..pb::Op::default()
    };
    let op = Op::from_wire(op).map_err(|error| BuildError::invalid(format!("container: {error}")))?;
    match op.kind {
        OpKind::Exec(exec) => Ok(*exec),
        _ => Err(BuildError::new(ErrorCode::Internal, "an exec became another op")),
    }
}

/// A process as the op of a step has it; it gets its mounts from the container.
fn process_op(init: &wire::InitMessage) -> Result<ExecOp, BuildError> {
    let mut meta = init.meta.clone().ok_or_else(|| BuildError::invalid("a process without meta"))?;
    if meta.cwd.is_empty() {
        meta.cwd = "/".into();
    }
    let root = pb::Mount { input: -1, output: -1, dest: "/".into(), ..pb::Mount::default() };
    let exec = pb::ExecOp {
        meta: Some(meta),
        mounts: vec![root],
        security: init.security,
        secretenv: init.secretenv.clone(),
        ..pb::ExecOp::default()
    };
    exec_op(exec, 0)
}

/// Serves a stream of messages. What is returned is all of it: dropping it ends the processes.
pub(crate) fn serve(
    build: Arc<ForwardedBuild>,
    messages: Streaming<wire::ExecMessage>,
) -> Pin<Box<dyn Stream<Item = Reply> + Send>> {
    let (replies, receiver) = mpsc::channel(REPLIES);
    let work = futures::stream::once(drive(build, messages, replies));
    let work = work.filter_map(|failed: Result<(), Status>| std::future::ready(failed.err().map(Err)));
    Box::pin(futures::stream::select(ReceiverStream::new(receiver).map(Ok), work))
}

/// What reaches a running process.
struct Running {
    stdin: Option<mpsc::Sender<std::io::Result<Bytes>>>,
    resize: mpsc::Sender<(u16, u16)>,
    signals: mpsc::Sender<i32>,
}

async fn drive(
    build: Arc<ForwardedBuild>,
    mut messages: Streaming<wire::ExecMessage>,
    replies: mpsc::Sender<wire::ExecMessage>,
) -> Result<(), Status> {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut processes = FuturesUnordered::new();
    let mut open = true;
    while open || !processes.is_empty() {
        let message = tokio::select! {
            ended = processes.next(), if !processes.is_empty() => {
                if let Some(id) = ended {
                    running.remove(&id);
                }
                continue;
            }
            message = messages.message(), if open => message?,
        };
        let Some(message) = message else {
            open = false;
            // Nothing more comes for anybody.
            running.values_mut().for_each(|process| process.stdin = None);
            continue;
        };
        let id = message.process_id;
        match message.input {
            Some(Input::Init(init)) => {
                if running.contains_key(&id) || running.len() >= MAX_PROCESSES {
                    return Err(Status::already_exists(format!(
                        "a process `{id}` runs already, or too many do"
                    )));
                }
                let (handles, process) = process(&build, id.clone(), init, replies.clone())?;
                running.insert(id, handles);
                processes.push(process);
            }
            Some(input) => {
                if let Some(process) = running.get_mut(&id) {
                    // While one process does not read, the others go on; its own messages wait.
                    let gone = deliver(&id, process, input, &mut processes).await?;
                    gone.iter().for_each(|id| drop(running.remove(id)));
                }
            }
            None => return Err(Status::invalid_argument("a message of a process says nothing")),
        }
    }
    Ok(())
}

/// Delivers a message while processes go on, and gives those that have ended meanwhile.
async fn deliver(
    id: &str,
    process: &mut Running,
    input: Input,
    processes: &mut FuturesUnordered<Process>,
) -> Result<Vec<String>, Status> {
    let mut gone = Vec::new();
    let passing = pass(process, input);
    tokio::pin!(passing);
    loop {
        tokio::select! {
            passed = &mut passing => {
                passed.map_err(|error| to_status(&error))?;
                return Ok(gone);
            }
            Some(ended) = processes.next() => {
                let receiver_is_gone = ended == id;
                gone.push(ended);
                if receiver_is_gone {
                    return Ok(gone);
                }
            }
        }
    }
}

/// Delivers a message to a process. A process that has ended just does not get it.
async fn pass(process: &mut Running, input: Input) -> Result<(), BuildError> {
    match input {
        Input::File(file) if file.fd == 0 => {
            if let Some(stdin) = &process.stdin {
                // An error: the process has closed its input, which is its affair.
                let sent = file.data.is_empty() || stdin.send(Ok(file.data.into())).await.is_ok();
                if file.eof || !sent {
                    process.stdin = None;
                }
            }
        }
        Input::File(file) => {
            return Err(BuildError::invalid(format!(
                "input for stream {} of a process: only 0 is read",
                file.fd
            )));
        }
        Input::Resize(size) => {
            let side = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
            if process.resize.try_send((side(size.rows), side(size.cols))).is_err() {
                tracing::debug!("a terminal's size was not passed on");
            }
        }
        Input::Signal(signal) => {
            let number = signal_number(&signal.name)
                .ok_or_else(|| BuildError::invalid(format!("unknown signal `{}`", signal.name)))?;
            if process.signals.try_send(number).is_err() {
                tracing::debug!(number, "a signal was not passed on");
            }
        }
        Input::Init(_) | Input::Started(_) | Input::Exit(_) | Input::Done(_) => {
            return Err(BuildError::invalid("a message that only the daemon sends"));
        }
    }
    Ok(())
}

type Process = Pin<Box<dyn Future<Output = String> + Send>>;

fn process(
    build: &Arc<ForwardedBuild>,
    id: String,
    init: wire::InitMessage,
    replies: mpsc::Sender<wire::ExecMessage>,
) -> Result<(Running, Process), Status> {
    let (container, released) = build.container(&init.container_id).map_err(|error| to_status(&error))?;
    let exec = process_op(&init);
    let (stdin, input) = mpsc::channel(INPUT);
    let (resize, sizes) = mpsc::channel(CONTROLS);
    let (signals, numbers) = mpsc::channel(CONTROLS);
    let (output, chunks) = mpsc::channel(REPLIES);
    let reads = init.fds.contains(&0);
    let stdin_reader = reads.then(|| {
        let reader: Pin<Box<dyn tokio::io::AsyncRead + Send>> =
            Box::pin(StreamReader::new(ReceiverStream::new(input)));
        reader
    });
    let process = exec.map(|exec| ContainerProcess {
        exec,
        tty: init.tty,
        stdin: stdin_reader,
        output,
        resize: sizes,
        signals: numbers,
    });
    let fds: Vec<u32> = init.fds.iter().copied().filter(|fd| (1..=2).contains(fd)).collect();
    let talk = Talk { id: id.clone(), replies, fds };
    let work = async move {
        let running = async {
            tokio::select! {
                outcome = container.run(process?) => outcome,
                () = released.cancelled() => {
                    Err(BuildError::new(ErrorCode::Cancelled, "the container was released"))
                }
            }
        };
        let telling = talk.tell(chunks);
        let (outcome, ()) = tokio::join!(running, telling);
        talk.end(outcome).await;
        id
    };
    let handles = Running { stdin: reads.then_some(stdin), resize, signals };
    Ok((handles, Box::pin(work)))
}

/// What a client is told of one process.
struct Talk {
    id: String,
    replies: mpsc::Sender<wire::ExecMessage>,
    fds: Vec<u32>,
}

impl Talk {
    async fn send(&self, input: Input) {
        let message = wire::ExecMessage { process_id: self.id.clone(), input: Some(input) };
        if self.replies.send(message).await.is_err() {
            tracing::debug!(process = self.id, "nobody listens to a process any more");
        }
    }

    /// Start and output, until the process has ended.
    async fn tell(&self, mut chunks: mpsc::Receiver<(u32, Bytes)>) {
        // Clients take nothing else for the first message, also of a process that cannot begin: its end says why.
        self.send(Input::Started(wire::StartedMessage {})).await;
        while let Some((fd, data)) = chunks.recv().await {
            // A client that did not ask for a stream does not want it.
            if self.fds.contains(&fd) {
                self.send(Input::File(wire::FdMessage { fd, eof: false, data: data.to_vec() })).await;
            }
        }
    }

    async fn end(&self, outcome: Result<u32, BuildError>) {
        for fd in &self.fds {
            self.send(Input::File(wire::FdMessage { fd: *fd, eof: true, data: Vec::new() })).await;
        }
        let (code, error) = match outcome {
            Ok(0) => (0, None),
            Ok(code) => (code, Some(BuildError::new(ErrorCode::Unknown, format!("exit code: {code}")))),
            Err(error) => (UNKNOWN_EXIT, Some(error)),
        };
        let error = error.map(|error| to_rpc_status(&error));
        self.send(Input::Exit(wire::ExitMessage { code, error })).await;
        self.send(Input::Done(wire::DoneMessage {})).await;
    }
}

/// A client's name for a container is its own; it is only ever looked up within its build.
pub(crate) fn check_id(id: &str) -> Result<(), BuildError> {
    match is_safe_id(id) {
        true => Ok(()),
        false => Err(BuildError::invalid(format!("container id {id:?} is not one"))),
    }
}

/// Numbers of the signals by name, as Linux has them on the platforms that we run on.
fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let position = NAMES.iter().position(|known| *known == plain)?;
    i32::try_from(position + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_with_and_without_their_prefix() {
        assert_eq!(signal_number("SIGINT"), Some(2));
        assert_eq!(signal_number("term"), Some(15));
        assert_eq!(signal_number("SIGSYS"), Some(31));
        assert_eq!(signal_number("SIGNAL"), None);
    }

    #[test]
    fn a_process_needs_a_program() {
        assert!(process_op(&wire::InitMessage::default()).is_err());
        let meta = pb::Meta { args: vec!["true".into()], ..pb::Meta::default() };
        let init = wire::InitMessage { meta: Some(meta), ..wire::InitMessage::default() };
        assert_eq!(process_op(&init).unwrap().meta.cwd, "/");
    }
}
