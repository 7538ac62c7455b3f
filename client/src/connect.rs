//! Reaching a daemon: unix sockets, TCP with TLS, ssh, and a daemon of our own when there is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rbuild_frontend::Fault;
use tokio::io::{AsyncRead, AsyncWrite, Join, join};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use crate::cli::ConnectionArgs;
use crate::daemonless::PrivateDaemon;
use crate::errors::{CommandError, os_text, with_causes};

/// The default windows of 64 KiB would cap a stream far below what a local socket can carry.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Where daemons listen when nobody says otherwise.
pub(crate) const DEFAULT_SOCKETS: [&str; 2] = ["/run/rbuild/rbuildd.sock", "/run/buildkit/buildkitd.sock"];

/// A connection, and the daemon behind it if it is ours.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The gRPC channel.
    pub(crate) channel: Channel,
    /// Between us is a network, on which bytes cost more than the time to compress them.
    pub(crate) is_far: bool,
    daemon: Option<PrivateDaemon>,
}

impl Connection {
    /// Ends the private daemon, if there is one, and waits for it.
    pub(crate) async fn close(self) {
        drop(self.channel);
        if let Some(daemon) = self.daemon {
            daemon.stop().await;
        }
    }
}

/// Connects to the daemon that the command line, the environment or the default sockets name. `daemonless`: start
/// one if there is none.
pub(crate) async fn connect(args: &ConnectionArgs, daemonless: bool) -> Result<Connection, CommandError> {
    if let Some(address) = args.address() {
        let channel = dial(&address, args).await?;
        return Ok(Connection { channel, is_far: is_far(&address), daemon: None });
    }
    for socket in DEFAULT_SOCKETS {
        if UnixStream::connect(socket).await.is_ok() {
            let channel = dial(&format!("unix://{socket}"), args).await?;
            return Ok(Connection { channel, is_far: false, daemon: None });
        }
    }
    if !daemonless {
        return Err(CommandError::new(format!("no daemon listens on {}", DEFAULT_SOCKETS.join(" or ")))
            .fault(Fault::NoDaemon)
            .hint("start rbuildd, or name its address with --addr or RBUILD_HOST"));
    }
    let daemon = PrivateDaemon::start().await?;
    let channel = dial(&daemon.address(), args).await?;
    Ok(Connection { channel, is_far: false, daemon: Some(daemon) })
}

fn is_far(address: &str) -> bool {
    match address.split_once("://") {
        Some(("ssh", _)) => true,
        Some(("tcp", host)) => {
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
            host != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback())
        }
        _ => false,
    }
}

async fn dial(address: &str, args: &ConnectionArgs) -> Result<Channel, CommandError> {
    let limit = Duration::from_secs(args.timeout.max(1));
    let dialled = match address.split_once("://") {
        Some(("unix", path)) => tokio::time::timeout(limit, dial_unix(Path::new(path))).await,
        Some(("tcp", host)) => tokio::time::timeout(limit, dial_tcp(host, args)).await,
        Some(("ssh", host)) => tokio::time::timeout(limit.max(Duration::from_secs(30)), dial_ssh(host)).await,
        _ => {
            return Err(CommandError::usage(format!(
                "address `{address}`: expected unix://PATH, tcp://HOST:PORT or ssh://[USER@]HOST"
            )));
        }
    };
    match dialled {
        Ok(result) => {
            result.map_err(|error| error.fault(Fault::Connection).context(format!("connecting to {address}")))
        }
        Err(_) => Err(CommandError::new(format!("connecting to {address}: no answer within {limit:?}"))
            .fault(Fault::Connection)
            .hint("is that the address of a daemon? --timeout waits longer")),
    }
}

fn endpoint(uri: &str) -> Result<Endpoint, CommandError> {
    let endpoint = Endpoint::from_shared(uri.to_owned());
    let endpoint = endpoint.map_err(|error| CommandError::usage(format!("address {uri}: {error}")))?;
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20)))
}

async fn over<S, F, Fut>(connect: F) -> Result<Channel, CommandError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = std::io::Result<S>> + Send + 'static,
{
    let connector = tower::service_fn(move |_: Uri| {
        let stream = connect();
        async move { stream.await.map(TokioIo::new) }
    });
    endpoint("http://localhost")?.connect_with_connector(connector).await.map_err(transport_error)
}

async fn dial_unix(path: &Path) -> Result<Channel, CommandError> {
    if let Err(error) = UnixStream::connect(path).await {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "are you in the group that owns the socket?",
            std::io::ErrorKind::NotFound => "is rbuildd running, and is that its --addr?",
            _ => "is rbuildd running? the socket is one that nobody serves",
        };
        let fault = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Fault::NoDaemon,
            _ => Fault::Connection,
        };
        return Err(CommandError::new(os_text(&error)).fault(fault).hint(hint));
    }
    let path = path.to_owned();
    over(move || UnixStream::connect(path.clone())).await
}

async fn dial_tcp(host: &str, args: &ConnectionArgs) -> Result<Channel, CommandError> {
    let Some(tls) = tls_config(host, args)? else {
        return endpoint(&format!("http://{host}"))?.connect().await.map_err(transport_error);
    };
    let endpoint = endpoint(&format!("https://{host}"))?;
    let endpoint = endpoint.tls_config(tls).map_err(transport_error)?;
    endpoint.connect().await.map_err(|error| {
        let error = transport_error(error);
        match error.says("certificate") {
            true => error.fault(Fault::DaemonTls),
            false => error,
        }
        .hint("a daemon with mutual TLS wants --tlscert and --tlskey signed by its authority, and is known by --tlscacert")
    })
}

fn tls_config(host: &str, args: &ConnectionArgs) -> Result<Option<ClientTlsConfig>, CommandError> {
    let in_dir = |name: &str| args.tlsdir.as_ref().map(|dir| dir.join(name));
    let authority = args.tlscacert.clone().or_else(|| in_dir("ca.pem"));
    let cert = args.tlscert.clone().or_else(|| in_dir("cert.pem"));
    let key = args.tlskey.clone().or_else(|| in_dir("key.pem"));
    if authority.is_none() && cert.is_none() && key.is_none() {
        return Ok(None);
    }
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| {
            CommandError::new(format!("{}: {}", path.display(), os_text(&error))).fault(Fault::DaemonTls)
        })
    };
    let plain_host = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let name = args.tlsservername.clone().unwrap_or_else(|| plain_host.to_owned());
    let mut config = ClientTlsConfig::new().domain_name(name);
    if let Some(authority) = &authority {
        config = config.ca_certificate(Certificate::from_pem(read(authority)?));
    }
    config = match (&cert, &key) {
        (Some(cert), Some(key)) => config.identity(Identity::from_pem(read(cert)?, read(key)?)),
        (None, None) => config,
        _ => return Err(CommandError::usage("--tlscert and --tlskey belong together")),
    };
    Ok(Some(config))
}

/// Both pipes of an ssh that carries the connection; the process ends with them.
struct SshStream {
    pipes: Join<ChildStdout, ChildStdin>,
    _child: Child,
}

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.pipes).poll_read(cx, buf)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.pipes).poll_write(cx, buf)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.pipes).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.pipes).poll_shutdown(cx)
    }
}

/// Where ssh goes: `[USER@]HOST[:PORT][/PATH]`, PATH being the socket of the daemon there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SshTarget {
    host: String,
    port: Option<u16>,
    socket: Option<String>,
}

impl SshTarget {
    fn parse(text: &str) -> Result<Self, CommandError> {
        let wrong =
            || CommandError::usage(format!("ssh host `{text}`: expected [USER@]HOST[:PORT][/SOCKET]"));
        let (place, socket) = match text.split_once('/') {
            Some((place, "")) => (place, None),
            Some((place, path)) => (place, Some(format!("/{path}"))),
            None => (text, None),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
            None => (place, None),
        };
        // A leading dash would be an option of ssh.
        match host.is_empty() || host.starts_with('-') {
            true => Err(wrong()),
            false => Ok(Self { host: host.to_owned(), port, socket }),
        }
    }

    /// For the login shell there: our client if it is installed, else upstream's.
    fn remote_command(&self) -> String {
        let address = match &self.socket {
            Some(path) => format!(" --addr 'unix://{}'", path.replace('\'', r"'\''")),
            None => String::new(),
        };
        format!(
            "if command -v rbuildctl >/dev/null; then exec rbuildctl{address} dial-stdio; \
             else exec buildctl{address} dial-stdio; fi"
        )
    }
}

/// Runs `rbuildctl dial-stdio` (or `buildctl dial-stdio`) on the other machine through the system's ssh.
async fn dial_ssh(text: &str) -> Result<Channel, CommandError> {
    let target = SshTarget::parse(text)?;
    over(move || {
        let target = target.clone();
        async move {
            let mut command = Command::new("ssh");
            if let Some(port) = target.port {
                command.args(["-p", &port.to_string()]);
            }
            command.args(["--", &target.host, &target.remote_command()]);
            command
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .kill_on_drop(true);
            let mut child = command.spawn()?;
            match (child.stdout.take(), child.stdin.take()) {
                (Some(stdout), Some(stdin)) => Ok(SshStream { pipes: join(stdout, stdin), _child: child }),
                _ => Err(std::io::Error::other("ssh has no pipes")),
            }
        }
    })
    .await
}

/// Copies standard input to the default socket and back, for [`dial_ssh`].
pub(crate) async fn dial_stdio(args: &ConnectionArgs) -> Result<(), CommandError> {
    let named = args.address();
    let candidates: Vec<&str> = match named.as_deref() {
        None => DEFAULT_SOCKETS.to_vec(),
        Some(address) => vec![address.strip_prefix("unix://").ok_or_else(|| {
            CommandError::usage(format!("dial-stdio to `{address}`: expected unix://PATH"))
        })?],
    };
    for socket in candidates {
        if let Ok(mut stream) = UnixStream::connect(socket).await {
            let mut stdio = join(tokio::io::stdin(), tokio::io::stdout());
            tokio::io::copy_bidirectional(&mut stdio, &mut stream).await?;
            return Ok(());
        }
    }
    Err(CommandError::new("no daemon listens on this machine").fault(Fault::NoDaemon))
}

fn transport_error(error: tonic::transport::Error) -> CommandError {
    let error = CommandError::new(with_causes(&error.to_string(), std::error::Error::source(&error)));
    match error.says("Connection refused") {
        true => error.hint("nothing listens there"),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_far_and_this_machine_is_not() {
        for address in ["ssh://host", "tcp://builder:1234", "tcp://10.0.0.7:1234", "tcp://[2001:db8::1]:1"] {
            assert!(is_far(address), "{address}");
        }
        for address in ["unix:///run/x.sock", "tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1"] {
            assert!(!is_far(address), "{address}");
        }
    }

    #[test]
    fn ssh_addresses_name_a_host_and_maybe_a_socket() {
        let target = SshTarget::parse("me@host:2222/run/x y.sock").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("me@host", Some(2222)));
        assert!(target.remote_command().contains("rbuildctl --addr 'unix:///run/x y.sock' dial-stdio"));
        let target = SshTarget::parse("host/").unwrap();
        assert_eq!(target, SshTarget { host: "host".into(), port: None, socket: None });
        for bad in ["", "/x", "-oProxyCommand=x", "host:port"] {
            assert!(SshTarget::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_path_cannot_become_a_command() {
        let command = SshTarget::parse("host/a'; rm -rf /;").unwrap().remote_command();
        assert!(command.contains(r"--addr 'unix:///a'\''; rm -rf /;' dial-stdio"), "{command}");
    }
}
