//! Sockets: unix with group permission, TCP with mutual TLS, and those that a service manager hands over.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Group, Uid};
use tokio::net::{TcpListener, UnixListener};

use crate::config::Config;

/// A socket that is bound but not yet served.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Removed from disk when dropped.
    Unix(UnixListener, SocketFile),
    /// Served with the configured certificates, or without any if the operator said so in words.
    Tcp(TcpListener, SocketAddr),
}

/// The path of a unix socket that we made.
#[derive(Debug)]
pub(crate) struct SocketFile(Option<PathBuf>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "removing a socket");
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::Unix(_, SocketFile(Some(path))) => write!(f, "unix://{}", path.display()),
            Bound::Unix(..) => f.write_str("an inherited unix socket"),
            Bound::Tcp(_, address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Binds every configured address. Errors name the address and what is wrong with it.
pub(crate) async fn bind_all(config: &Config) -> anyhow::Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for address in &config.addresses {
        let context = || format!("listening on {address}");
        match address.split_once("://") {
            Some(("unix", path)) => bound.push(bind_unix(Path::new(path), config).with_context(context)?),
            Some(("tcp", host)) => bound.push(bind_tcp(host, config).await.with_context(context)?),
            Some(("fd", "")) => bound.extend(inherited(config).with_context(context)?),
            Some(("fd", _)) => {
                bail!("address `{address}`: expected fd://, which takes all sockets handed over")
            }
            _ => bail!("address `{address}`: expected unix://PATH, tcp://HOST:PORT or fd://"),
        }
    }
    Ok(bound)
}

/// A socket of our own making at `path`, for the owner and group of the configuration only.
pub(crate) fn bind_unix(path: &Path, config: &Config) -> anyhow::Result<Bound> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(Some(path.to_owned()));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    let gid = match &config.group {
        Some(name) => Some(resolve_group(name)?),
        None => config.gid.map(Gid::from_raw),
    };
    if gid.is_some() || config.uid.is_some() {
        nix::unistd::chown(path, config.uid.map(Uid::from_raw), gid).context("setting the socket's owner")?;
    }
    Ok(Bound::Unix(listener, file))
}

fn resolve_group(name: &str) -> anyhow::Result<Gid> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name)? {
        Some(group) => Ok(group.gid),
        None => bail!("there is no group `{name}`"),
    }
}

/// A socket that nobody answers on was left by a killed daemon; one that is served belongs to somebody.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => bail!("there is a file that is not a socket"),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => bail!("another daemon is serving this socket"),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Ok(std::fs::remove_file(path)?)
            }
            Err(error) => bail!("this socket belongs to somebody else ({error})"),
        },
    }
}

/// Whoever connects can build as root, so strangers are let in only if the operator said so in words.
fn check_tcp(config: &Config) -> anyhow::Result<()> {
    match &config.tls {
        None if !config.insecure_tcp => bail!(
            "TCP needs certificates (--tlscert, --tlskey, --tlscacert): whoever connects can build as root. \
             To listen without them all the same, say --insecure-tcp"
        ),
        Some(tls) if tls.client_ca.is_none() && !config.insecure_tcp => bail!(
            "TLS without --tlscacert lets every client in: name the authority that signs your clients, or say \
             --insecure-tcp"
        ),
        _ => Ok(()),
    }
}

async fn bind_tcp(host: &str, config: &Config) -> anyhow::Result<Bound> {
    check_tcp(config)?;
    let listener = TcpListener::bind(host).await?;
    let address = listener.local_addr()?;
    Ok(Bound::Tcp(listener, address))
}

/// Sockets that the service manager opened (systemd's LISTEN_FDS).
fn inherited(config: &Config) -> anyhow::Result<Vec<Bound>> {
    let mut fds = listenfd::ListenFd::from_env();
    let mut bound = Vec::new();
    for index in 0..fds.len() {
        if let Ok(Some(listener)) = fds.take_unix_listener(index) {
            listener.set_nonblocking(true)?;
            bound.push(Bound::Unix(UnixListener::from_std(listener)?, SocketFile(None)));
        } else if let Ok(Some(listener)) = fds.take_tcp_listener(index) {
            check_tcp(config)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            bound.push(Bound::Tcp(TcpListener::from_std(listener)?, address));
        } else {
            bail!("socket {index} that was handed over listens on neither unix nor TCP streams");
        }
    }
    if bound.is_empty() {
        bail!("the service manager handed over no socket (LISTEN_FDS)");
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn only_a_socket_that_nobody_has_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let served = UnixListener::bind(&path).unwrap();
        assert!(remove_stale(&path).is_err());
        drop(served);
        remove_stale(&path).unwrap();
        // A logger's socket, for instance: not a stream, so a connection says nothing about its owner.
        let _served = UnixDatagram::bind(&path).unwrap();
        assert!(remove_stale(&path).is_err());
        assert!(path.exists());
    }
}
