use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::errors::CommandError;

/// A port of this machine and one of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port {
    listen: SocketAddr,
    inside: u16,
}

/// Reads `--publish` arguments.
pub(super) fn parse(texts: &[String]) -> Result<Vec<Port>, CommandError> {
    texts.iter().map(|text| Port::parse(text)).collect()
}

impl Port {
    fn parse(text: &str) -> Result<Self, CommandError> {
        let wrong = || CommandError::usage(format!("--publish {text}: expected [IP:]PORT:PORT"));
        let plain = text.strip_suffix("/tcp").unwrap_or(text);
        let (rest, inside) = plain.rsplit_once(':').ok_or_else(wrong)?;
        let (ip, outside) = match rest.rsplit_once(':') {
            Some((ip, port)) => (ip.trim_matches(['[', ']']).parse().map_err(|_| wrong())?, port),
            None => (IpAddr::from(Ipv4Addr::UNSPECIFIED), rest),
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
        Ok(Self { listen: SocketAddr::new(ip, number(outside)?), inside: number(inside)? })
    }
}

/// Passes connections on. Returns only if a port cannot be had.
///
/// Processes share the daemon's network: a port that is asked for under its own number is there without our doing.
pub(super) async fn serve(ports: Vec<Port>) -> CommandError {
    let mut listeners = JoinSet::new();
    for port in ports.into_iter().filter(|port| port.listen.port() != port.inside) {
        listeners.spawn(listen(port));
    }
    match listeners.join_next().await {
        Some(Ok(error)) => error,
        Some(Err(error)) => CommandError::new(format!("--publish: {error}")),
        None => std::future::pending().await,
    }
}

async fn listen(port: Port) -> CommandError {
    let failed = |error: std::io::Error| {
        CommandError::new(format!("--publish: listening on {}: {error}", port.listen))
    };
    let listener = match TcpListener::bind(port.listen).await {
        Ok(listener) => listener,
        Err(error) => return failed(error),
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(pass(stream, port.inside));
                }
                Err(error) => return failed(error),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass(mut outside: TcpStream, port: u16) {
    let passed = async {
        let mut inside = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        tokio::io::copy_bidirectional(&mut outside, &mut inside).await
    };
    if let Err(error) = passed.await {
        tracing::debug!(port, %error, "a published connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_two_numbers_and_maybe_an_address() {
        let port = |text: &str| Port::parse(text).map(|port| (port.listen.to_string(), port.inside));
        assert_eq!(port("127.0.0.1:8000:80").unwrap(), ("127.0.0.1:8000".into(), 80));
        assert_eq!(port("8000:80/tcp").unwrap(), ("0.0.0.0:8000".into(), 80));
        assert_eq!(port("[::1]:8000:80").unwrap(), ("[::1]:8000".into(), 80));
        for wrong in ["80", "x:80", "80:0", "70000:1", "1:2/udp", "host:1:2"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }
}
