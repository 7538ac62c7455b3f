//! Access to one repository: which secrets and which agent git may use for it.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use rbuild_session::{Session, SessionError, SessionManager, SshSocket, names};
use rbuild_store::Store;

use super::question::Question;
use super::remote::Remote;
use super::run::Git;
use crate::{SourceError, SourceRequest};

/// Git, as it may be run against one repository. Sockets and files of it go when it is dropped.
#[derive(Debug)]
pub(super) struct Access {
    git: Git,
    _agent: Option<SshSocket>,
    _hosts: Option<HostsFile>,
}

/// A file of known hosts.
#[derive(Debug)]
struct HostsFile(PathBuf);

impl Drop for HostsFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "file of known hosts was not removed");
        }
    }
}

impl Access {
    /// `remote` is the repository of `question`, or that of a submodule: secrets that are not named after a host are
    /// for the former only. No file of it may have more than `max_bytes`.
    pub(super) async fn open(
        store: &Store,
        sessions: &Arc<SessionManager>,
        request: &SourceRequest,
        question: &Question,
        remote: &Remote,
        max_bytes: u64,
    ) -> Result<Self, SourceError> {
        let run_dir = store.run_dir();
        let home = home(&run_dir).await?;
        let git = Git::new(&home, max_bytes);
        if remote.is_http() {
            let git = match authorization(sessions, request, question, remote).await? {
                None => git,
                // To another host a redirect would take the secret along.
                Some(header) => git
                    .config(
                        format!("http.{}/.extraHeader", remote.origin()),
                        format!("Authorization: {header}"),
                    )
                    .config("http.followRedirects", "false"),
            };
            return Ok(Self { git, _agent: None, _hosts: None });
        }
        if !remote.is_ssh() {
            return Ok(Self { git, _agent: None, _hosts: None });
        }
        let hosts = hosts_file(&run_dir, question.known_hosts.clone()).await?;
        let mut git = git.env("GIT_SSH_COMMAND", ssh_command(&hosts.0, question.known_hosts.is_some()));
        let agent = match &question.agent {
            None => None,
            Some(id) => {
                let socket = agent(&run_dir, sessions, request, id).await?;
                git = git.env("SSH_AUTH_SOCK", socket.path());
                Some(socket)
            }
        };
        Ok(Self { git, _agent: agent, _hosts: Some(hosts) })
    }

    pub(super) fn git(&self) -> &Git {
        &self.git
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other).and_then(|done| done);
    done.map_err(|error| SourceError::io(what, error))
}

/// An empty directory.
async fn home(run_dir: &Path) -> Result<PathBuf, SourceError> {
    let home = run_dir.join("git-home");
    blocking("directory of git", move || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home)?;
        Ok(home)
    })
    .await
}

async fn hosts_file(run_dir: &Path, lines: Option<String>) -> Result<HostsFile, SourceError> {
    let path = run_dir.join(format!("{}.hosts", rbuild_digest::random_id()));
    blocking("file of known hosts", move || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let hosts = HostsFile(path);
        std::io::Write::write_all(&mut file, lines.unwrap_or_default().as_bytes())?;
        Ok(hosts)
    })
    .await
}

/// Keys come from the agent alone. Without known hosts the first key that a host shows is believed, as upstream does.
fn ssh_command(hosts: &Path, strict: bool) -> String {
    let checking = if strict { "yes" } else { "accept-new" };
    let hosts = hosts.display().to_string().replace('\'', "'\\''");
    format!(
        "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=/dev/null -o ForwardAgent=no -o PermitLocalCommand=no \
         -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4 -o LogLevel=ERROR \
         -o StrictHostKeyChecking={checking} -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile='\"{hosts}\"'"
    )
}

async fn agent(
    run_dir: &Path,
    sessions: &Arc<SessionManager>,
    request: &SourceRequest,
    id: &str,
) -> Result<SshSocket, SourceError> {
    let missing = || SourceError::Invalid {
        identifier: super::remote::redacted(&request.op.identifier),
        reason: format!("no SSH key \"{id}\" forwarded from the client\nhint: build with --ssh {id}"),
    };
    let session = match sessions.any_with(&request.sessions, names::SSH_FORWARD_AGENT).await {
        Ok(session) => session,
        Err(SessionError::NoSession) => return Err(missing()),
        Err(error) if error.is_unsupported() => return Err(missing()),
        Err(error) => return Err(error.into()),
    };
    match session.ssh_check(id).await {
        Ok(()) => {}
        Err(error) if error.is_not_found() || error.is_unsupported() => return Err(missing()),
        Err(error) => return Err(error.into()),
    }
    let path = run_dir.join(format!("{}.sock", rbuild_digest::random_id()));
    let (uid, gid) = rbuild_sys::process::user_ids();
    Ok(SshSocket::bind(&session, id, &path, uid, gid, 0o600)?)
}

/// What to send as `Authorization`, if there is anything.
async fn authorization(
    sessions: &Arc<SessionManager>,
    request: &SourceRequest,
    question: &Question,
    remote: &Remote,
) -> Result<Option<String>, SourceError> {
    let basic = |text: String| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    if let Some((user, password)) = remote.login() {
        return Ok(Some(basic(format!("{user}:{password}"))));
    }
    let (header, token) = (question.header_secret.as_deref(), question.token_secret.as_deref());
    let host = remote.host();
    let named = |id: Option<&str>| id.map(|id| format!("{id}.{host}"));
    let mut asked = vec![(named(header), false), (named(token), true)];
    if remote.origin() == question.remote.origin() {
        asked.extend([(header.map(str::to_owned), false), (token.map(str::to_owned), true)]);
    }
    if request.sessions.is_empty() {
        return Ok(None);
    }
    let session = match sessions.any_with(&request.sessions, names::SECRETS_GET).await {
        Ok(session) => session,
        Err(SessionError::NoSession) => return Ok(None),
        Err(error) if error.is_unsupported() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for (id, is_token) in asked {
        let Some(id) = id else { continue };
        let Some(value) = secret(&session, &id).await? else { continue };
        if value.is_empty() || value.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(remote.invalid(format!("secret `{id}` is not a header's value")));
        }
        return Ok(Some(if is_token { basic(format!("x-access-token:{value}")) } else { value }));
    }
    Ok(None)
}

async fn secret(session: &Session, id: &str) -> Result<Option<String>, SourceError> {
    match session.get_secret(id).await {
        Ok(value) => Ok(Some(String::from_utf8_lossy(&value).trim().to_owned())),
        Err(error) if error.is_not_found() || error.is_unsupported() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
