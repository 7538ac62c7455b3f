//! Ssh agents offered to the daemon, behind a filter.
//!
//! The agent protocol is a sequence of frames (length u32 big endian, type, body), one answer per request. Only two
//! kinds of request reach the agent: list the keys, and sign. Everything else (adding and removing keys, locking,
//! extensions) is answered with FAILURE here, so a hostile daemon or step can use the keys while it runs and nothing
//! more.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use rbuild_api::moby::sshforward::v1 as wire;
use rbuild_api::moby::sshforward::v1::ssh_server::{Ssh, SshServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ssh::DEFAULT_ID;
use crate::tunnel::OwnedTasks;
use crate::{Result, SessionError, metadata, names};

/// Largest frame, as at OpenSSH's.
const MAX_FRAME: usize = 256 * 1024;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// A whole frame of type FAILURE.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// Answers that may wait for the network.
const ANSWERS_IN_FLIGHT: usize = 4;
/// Largest chunk of an answer in one message.
const CHUNK: usize = 32 * 1024;

/// Agents by id.
#[derive(Debug, Clone, Default)]
pub struct SshAgents {
    sockets: HashMap<String, PathBuf>,
}

impl SshAgents {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers the agent behind `socket` as `id` (empty: `default`); without a socket, the one of `SSH_AUTH_SOCK`.
    ///
    /// Errors: there is no socket. A path of a private key is refused: keys belong into an agent.
    pub fn add(&mut self, id: &str, socket: Option<&Path>) -> Result<()> {
        let id = if id.is_empty() { DEFAULT_ID } else { id };
        let config = |what| SessionError::Config { what };
        let path = match socket {
            Some(path) => path.to_owned(),
            None => match std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) {
                Some(path) => PathBuf::from(path),
                None => {
                    return Err(config(format!("ssh {id}: no agent is running (SSH_AUTH_SOCK is not set)")));
                }
            },
        };
        let shown = path.display();
        let meta =
            std::fs::metadata(&path).map_err(|err| SessionError::io(format!("ssh {id}: {shown}"), err))?;
        if !meta.file_type().is_socket() {
            let hint = "only agent sockets are forwarded; add keys to an agent with ssh-add";
            return Err(config(format!("ssh {id}: {shown} is not a socket ({hint})")));
        }
        self.sockets.insert(id.to_owned(), path);
        Ok(())
    }
}

pub(super) fn service(agents: SshAgents, tasks: OwnedTasks) -> SshServer<AgentService> {
    SshServer::new(AgentService { agents: Arc::new(agents), tasks })
}

#[derive(Debug)]
pub(super) struct AgentService {
    agents: Arc<SshAgents>,
    tasks: OwnedTasks,
}

impl AgentService {
    fn socket(&self, id: &str) -> std::result::Result<&Path, Status> {
        let id = if id.is_empty() { DEFAULT_ID } else { id };
        let found = self.agents.sockets.get(id).map(PathBuf::as_path);
        found.ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

#[tonic::async_trait]
impl Ssh for AgentService {
    type ForwardAgentStream =
        Pin<Box<dyn Stream<Item = std::result::Result<wire::BytesMessage, Status>> + Send>>;

    async fn check_agent(
        &self,
        request: Request<wire::CheckAgentRequest>,
    ) -> std::result::Result<Response<wire::CheckAgentResponse>, Status> {
        self.socket(&request.into_inner().id)?;
        Ok(Response::new(wire::CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<wire::BytesMessage>>,
    ) -> std::result::Result<Response<Self::ForwardAgentStream>, Status> {
        let id = metadata::first(request.metadata(), names::SSH_ID).unwrap_or_default();
        let path = self.socket(&id)?;
        let connected = UnixStream::connect(path).await;
        let agent =
            connected.map_err(|err| Status::unavailable(format!("ssh agent {}: {err}", path.display())))?;
        let (answers, answered) = mpsc::channel(ANSWERS_IN_FLIGHT);
        let requests = request.into_inner();
        let work = async move {
            let gone = answers.clone();
            tokio::select! {
                served = filter(requests, agent, &answers) => if let Err(status) = served {
                    drop(answers.send(Err(status)).await);
                },
                () = gone.closed() => {}
            }
        };
        self.tasks.tracker.spawn(self.tasks.token.clone().run_until_cancelled_owned(work));
        Ok(Response::new(ReceiverStream::new(answered).boxed()))
    }
}

/// Bytes of the daemon's stream, cut into frames.
struct Frames {
    requests: Streaming<wire::BytesMessage>,
    buffer: Vec<u8>,
}

impl Frames {
    /// The next whole frame; `None` at the end of the stream.
    async fn next(&mut self) -> std::result::Result<Option<Vec<u8>>, Status> {
        loop {
            if let Some(header) = self.buffer.first_chunk::<4>() {
                let len = u32::from_be_bytes(*header) as usize;
                if len == 0 || len > MAX_FRAME {
                    return Err(Status::invalid_argument("ssh agent request of impossible length"));
                }
                if self.buffer.len() >= 4 + len {
                    let rest = self.buffer.split_off(4 + len);
                    return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
                }
            }
            match self.requests.message().await? {
                Some(message) => self.buffer.extend_from_slice(&message.data),
                None => return Ok(None),
            }
        }
    }
}

async fn filter(
    requests: Streaming<wire::BytesMessage>,
    mut agent: UnixStream,
    answers: &mpsc::Sender<std::result::Result<wire::BytesMessage, Status>>,
) -> std::result::Result<(), Status> {
    let broken = |err: std::io::Error| Status::unavailable(format!("ssh agent: {err}"));
    let mut frames = Frames { requests, buffer: Vec::new() };
    while let Some(frame) = frames.next().await? {
        let kind = frame.get(4).copied();
        let answer = if matches!(kind, Some(REQUEST_IDENTITIES | SIGN_REQUEST)) {
            agent.write_all(&frame).await.map_err(broken)?;
            let len = agent.read_u32().await.map_err(broken)?;
            if len == 0 || len as usize > MAX_FRAME {
                return Err(Status::unavailable("ssh agent: answer of impossible length"));
            }
            let mut answer = vec![0; 4 + len as usize];
            answer[..4].copy_from_slice(&len.to_be_bytes());
            agent.read_exact(&mut answer[4..]).await.map_err(broken)?;
            answer
        } else {
            tracing::debug!(kind, "ssh agent request refused");
            FAILURE.to_vec()
        };
        for chunk in answer.chunks(CHUNK) {
            if answers.send(Ok(wire::BytesMessage { data: chunk.to_vec() })).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
