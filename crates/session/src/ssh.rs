//! The daemon's end of ssh agent forwarding.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use rbuild_api::moby::sshforward::v1 as wire;
use rbuild_api::moby::sshforward::v1::ssh_client::SshClient;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Result, Session, SessionError, metadata, names};

/// The agent that is meant when none is named.
pub(crate) const DEFAULT_ID: &str = "default";
/// Messages that wait for the client; agents answer request by request, so few are ever needed.
const MESSAGES_IN_FLIGHT: usize = 8;
const MAX_MESSAGE: usize = 32 * 1024;

impl Session {
    /// Does the client offer an agent of this id (empty: `default`)?
    ///
    /// Errors: `is_not_found()` or `is_unsupported()` if not.
    pub async fn ssh_check(&self, id: &str) -> Result<()> {
        self.require(names::SSH_CHECK_AGENT)?;
        let mut client = SshClient::new(self.channel());
        self.until_closed(async {
            let request = wire::CheckAgentRequest { id: or_default(id).to_owned() };
            let answer = client.check_agent(request).await;
            answer
                .map(drop)
                .map_err(|status| SessionError::call(format!("ssh agent {}", or_default(id)), status))
        })
        .await
    }

    /// Carries one connection to the client's agent until either side ends it. Cancel: by drop.
    pub async fn ssh_forward<S>(&self, id: &str, stream: S) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        self.require(names::SSH_FORWARD_AGENT)?;
        self.until_closed(forward(self, or_default(id), stream)).await
    }
}

async fn forward<S>(session: &Session, id: &str, stream: S) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let failed = |status| SessionError::call(format!("ssh agent {id}"), status);
    let (reader, mut writer) = tokio::io::split(stream);
    let (sender, receiver) = tokio::sync::mpsc::channel(MESSAGES_IN_FLIGHT);
    let mut request = tonic::Request::new(ReceiverStream::new(receiver));
    metadata::append_one(request.metadata_mut(), names::SSH_ID, id)?;
    let mut client = SshClient::new(session.channel());
    let upward = async {
        let mut chunks = ReaderStream::with_capacity(reader, MAX_MESSAGE);
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk) = chunk else { break };
            if sender.send(wire::BytesMessage { data: chunk.into() }).await.is_err() {
                break;
            }
        }
        drop(sender); // half-closes: the agent sees the end
    };
    let downward = async {
        let mut answers = client.forward_agent(request).await.map_err(failed)?.into_inner();
        while let Some(message) = answers.message().await.map_err(failed)? {
            let written = writer.write_all(&message.data).await;
            written.map_err(|source| SessionError::io("ssh agent socket", source))?;
        }
        Ok(())
    };
    tokio::pin!(downward);
    tokio::select! {
        done = &mut downward => done,
        () = upward => downward.await,
    }
}

fn or_default(id: &str) -> &str {
    if id.is_empty() { DEFAULT_ID } else { id }
}

/// A unix socket that leads to a client's agent, connection by connection. Dropping it removes the socket and cuts
/// every connection.
#[derive(Debug)]
pub struct SshSocket {
    path: PathBuf,
    token: CancellationToken,
    tasks: TaskTracker,
}

impl SshSocket {
    /// Listens on `path` (which must not exist), owned by `uid` and `gid` with permission bits `mode`.
    ///
    /// `path` is one of ours, below the directory of a running step. Errors: I/O with the path. Call inside a runtime.
    pub fn bind(session: &Session, id: &str, path: &Path, uid: u32, gid: u32, mode: u32) -> Result<Self> {
        session.require(names::SSH_FORWARD_AGENT)?;
        let failed = |source: io::Error| SessionError::io(path.display().to_string(), source);
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket =
            Self { path: path.to_owned(), token: CancellationToken::new(), tasks: TaskTracker::new() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(failed)?;
        let (session, id) = (session.clone(), or_default(id).to_owned());
        let serve = serve(listener, session, id, socket.tasks.clone(), socket.token.clone());
        socket.tasks.spawn(socket.token.clone().run_until_cancelled_owned(serve));
        Ok(socket)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

async fn serve(
    listener: UnixListener,
    session: Session,
    id: String,
    tasks: TaskTracker,
    token: CancellationToken,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(session = session.id(), %error, "ssh agent socket cannot accept");
                return;
            }
        };
        let (session, id) = (session.clone(), id.clone());
        tasks.spawn(token.clone().run_until_cancelled_owned(async move {
            tracing::debug!(session = session.id(), agent = id, "ssh agent connection");
            if let Err(error) = session.ssh_forward(&id, stream).await {
                tracing::debug!(session = session.id(), agent = id, %error, "ssh agent connection ended");
            }
        }));
    }
}

impl Drop for SshSocket {
    fn drop(&mut self) {
        self.token.cancel();
        if let Err(error) = std::fs::remove_file(&self.path) {
            // The step's directory may be gone already, and the socket with it.
            tracing::debug!(path = %self.path.display(), %error, "ssh agent socket was not removed");
        }
    }
}
