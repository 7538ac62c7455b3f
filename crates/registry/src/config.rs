use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

/// How registries are reached, by their name in references (`docker.io`, `localhost:5000`).
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Hosts that need something other than the defaults.
    pub hosts: BTreeMap<String, HostConfig>,
    /// What the client calls itself; empty is `rbuild/<version>`.
    pub user_agent: String,
    /// How failures are retried.
    pub retry: RetryPolicy,
}

/// How one registry (or mirror) is reached.
#[derive(Debug, Clone, Default)]
pub struct HostConfig {
    /// Asked in this order before the registry itself, `host[:port][/path]`. For pulls only.
    pub mirrors: Vec<String>,
    /// Plain http; `None` is http for loopback hosts, https for the rest.
    pub http: Option<bool>,
    /// Any certificate will do, and plain http too if there is no https.
    pub insecure: bool,
    /// PEM files of further root certificates.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub keypairs: Vec<KeyPair>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// PEM file of the private key.
    pub key: PathBuf,
    /// PEM file of the certificate.
    pub cert: PathBuf,
}

/// How failures that may pass are retried.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Tries in all.
    pub attempts: u32,
    /// Wait before the second try; doubled each time.
    pub first_wait: Duration,
    /// No wait is longer, whatever the server asks for.
    pub max_wait: Duration,
    /// Making a connection.
    pub connect_timeout: Duration,
    /// From the end of a request to the head of its answer.
    pub answer_timeout: Duration,
    /// Between two pieces of a body.
    pub stall_timeout: Duration,
}

impl Default for RetryPolicy {
    /// About 30 s of patience for a registry that restarts; stalls end after a minute.
    fn default() -> Self {
        Self {
            attempts: 6,
            first_wait: Duration::from_millis(500),
            max_wait: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// Where the images of Docker Hub are.
pub(crate) const DOCKER_DOMAIN: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";

/// The host that serves a domain.
pub(crate) fn host_of_domain(domain: &str) -> &str {
    if domain == DOCKER_DOMAIN { DOCKER_HOST } else { domain }
}

/// Whether a `host[:port]` is this machine by its very name.
pub(crate) fn is_loopback(host: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{host}/")) else { return false };
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_known_by_name() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "x.localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example.com", "10.0.0.1", "[::2]", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
