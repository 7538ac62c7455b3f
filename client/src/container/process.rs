use bytes::Bytes;
use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::exec_message::Input;
use rbuild_digest::random_id;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::terminal::Terminal;
use crate::gateway::Gateway;

/// Messages to the daemon on their way.
const MESSAGES: usize = 16;
/// Bytes of standard input in one message.
const CHUNK: usize = 32 << 10;
/// The exit code of a process that never had one. Source: upstream's gateway.
const UNKNOWN_EXIT: u32 = 255;

/// Runs a process with this process's streams, and returns its exit code.
pub(super) async fn run(gateway: &mut Gateway, init: wire::InitMessage, reads: bool) -> Result<u32, Status> {
    let id = random_id();
    let (to, messages) = mpsc::channel(MESSAGES);
    let terminal = init.tty.then(Terminal::open).transpose();
    let terminal = terminal.map_err(|error| Status::unknown(format!("the terminal: {error}")))?;
    let send = Sender { id, to };
    send.send(Input::Init(init)).await;
    let replies = gateway.exec(ReceiverStream::new(messages)).await?;
    let feeding = async {
        tokio::join!(feed(&send, reads), sizes(&send, terminal.as_ref()));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        code = listen(replies) => code,
        () = feeding => Err(Status::internal("standard input outlived the process")),
    }
}

struct Sender {
    id: String,
    to: mpsc::Sender<wire::ExecMessage>,
}

impl Sender {
    /// Whether anybody listens.
    async fn send(&self, input: Input) -> bool {
        let message = wire::ExecMessage { process_id: self.id.clone(), input: Some(input) };
        self.to.send(message).await.is_ok()
    }
}

async fn feed(send: &Sender, reads: bool) {
    let file = |data: Bytes, eof| Input::File(wire::FdMessage { fd: 0, eof, data: data.to_vec() });
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    if !reads {
        return;
    }
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                send.send(file(Bytes::new(), true)).await;
                return;
            }
            Ok(count) => {
                if !send.send(file(Bytes::copy_from_slice(&buffer[..count]), false)).await {
                    return;
                }
            }
        }
    }
}

/// Tells the size of the terminal, now and whenever it changes.
async fn sizes(send: &Sender, terminal: Option<&Terminal>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Some(terminal) = terminal else { return };
    let mut changes = match signal(SignalKind::window_change()) {
        Ok(changes) => Some(changes),
        Err(error) => {
            tracing::debug!(%error, "sizes of the terminal are not followed");
            None
        }
    };
    loop {
        if let Some((rows, cols)) = terminal.size()
            && !send.send(Input::Resize(wire::ResizeMessage { rows, cols })).await
        {
            return;
        }
        let Some(changes) = &mut changes else { return };
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Writes what the process writes until it has ended.
async fn listen(mut replies: Streaming<wire::ExecMessage>) -> Result<u32, Status> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut exit: Option<Result<u32, Status>> = None;
    while let Some(message) = replies.message().await? {
        match message.input {
            Some(Input::File(file)) if !file.data.is_empty() => {
                let written = match file.fd {
                    2 => write(&mut stderr, &file.data).await,
                    _ => write(&mut stdout, &file.data).await,
                };
                // Nobody reads the output: the process need not write more.
                written.map_err(|error| Status::unknown(format!("writing the output: {error}")))?;
            }
            Some(Input::Exit(end)) => exit = Some(ended(end)),
            Some(Input::Done(_)) => break,
            _ => {}
        }
    }
    exit.unwrap_or_else(|| Err(Status::unavailable("the daemon did not say how the process ended")))
}

async fn write(stream: &mut (impl tokio::io::AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    stream.write_all(data).await?;
    stream.flush().await
}

fn ended(exit: wire::ExitMessage) -> Result<u32, Status> {
    match exit.error {
        Some(RpcStatus { code, message, .. })
            if exit.code == UNKNOWN_EXIT && !message.starts_with("exit code") =>
        {
            Err(Status::new(Code::from_i32(code), message))
        }
        _ => Ok(exit.code),
    }
}
