use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_oci::ImageRef;
use reqwest::{Certificate, Client, Identity, redirect};
use url::Url;

use crate::auth::{Authority, Credentials};
use crate::config::{HostConfig, RegistryConfig, host_of_domain, is_loopback};
use crate::repository::{RepoOptions, Repository};
use crate::transport::{Limits, install_crypto};
use crate::{RegistryError, transport};

/// Redirects in a row.
const MAX_REDIRECTS: usize = 10;

/// Configuration and connections, shared by all builds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RegistryConfig,
    /// Connections by host and security: certificates are read once.
    clients: Mutex<BTreeMap<(String, bool), Client>>,
}

/// One place that may serve a repository.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `host[:port]`, for errors and credentials.
    pub(crate) host: String,
    /// `https://host/v2/` and a mirror's path, with a slash at the end.
    pub(crate) base: Url,
    /// The registry that a mirror stands in for.
    pub(crate) namespace: Option<String>,
    pub(crate) client: Client,
    pub(crate) authority: Arc<Authority>,
    pub(crate) limits: Limits,
}

impl Registry {
    /// Reads the configured certificates. Blocking, but for small files only.
    ///
    /// Errors: [`RegistryError::Config`] names the file that cannot be used.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        install_crypto();
        let hosts = config.hosts.clone();
        let registry = Self { inner: Arc::new(Inner { config, clients: Mutex::default() }) };
        for (host, config) in &hosts {
            registry.client(host_of_domain(host), config)?;
        }
        Ok(registry)
    }

    /// The repository of `name` (tag and digest do not matter), in the name of `credentials`. Tokens are kept in it:
    /// clone it for one build, do not share it between users.
    ///
    /// Errors: [`RegistryError::Config`] if the configuration of a host cannot be used.
    pub fn repository(
        &self,
        name: &ImageRef,
        credentials: Arc<dyn Credentials>,
        options: RepoOptions,
    ) -> Result<Repository, RegistryError> {
        let domain = name.domain();
        let config = self.host_config(domain);
        let mut mirrors = Vec::new();
        for mirror in &config.mirrors {
            let (host, path) = mirror_parts(mirror);
            let mirror_config = self.host_config(host);
            let namespace = (host != domain).then(|| domain.to_owned());
            mirrors.extend(self.endpoints(host, path, &mirror_config, namespace, &credentials)?);
        }
        let mut config = config;
        config.insecure |= options.insecure;
        let own = self.endpoints(host_of_domain(domain), "", &config, None, &credentials)?;
        Ok(Repository::new(name.name_only(), mirrors, own, self.inner.config.retry.clone()))
    }

    fn host_config(&self, host: &str) -> HostConfig {
        self.inner.config.hosts.get(host).cloned().unwrap_or_default()
    }

    /// A host by https, by http, or by either in this order.
    fn endpoints(
        &self,
        host: &str,
        path: &str,
        config: &HostConfig,
        namespace: Option<String>,
        credentials: &Arc<dyn Credentials>,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let plain_http = config.http.unwrap_or_else(|| is_loopback(host) && !config.insecure);
        let schemes: &[&str] = match (plain_http, config.insecure) {
            (true, _) => &["http"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        };
        let client = self.client(host, config)?;
        schemes
            .iter()
            .map(|scheme| {
                let text = format!("{scheme}://{host}/v2/{path}");
                let base =
                    Url::parse(&text).map_err(|error| config_error(host, format!("`{host}`: {error}")))?;
                let plain = *scheme == "http";
                let authority = Authority::new(host.to_owned(), plain, client.clone(), credentials.clone());
                Ok(Endpoint {
                    host: host.to_owned(),
                    base,
                    namespace: namespace.clone(),
                    client: client.clone(),
                    authority: Arc::new(authority),
                    limits: Limits::from(&self.inner.config.retry),
                })
            })
            .collect()
    }

    fn client(&self, host: &str, config: &HostConfig) -> Result<Client, RegistryError> {
        let key = (host.to_owned(), config.insecure);
        let mut clients = self.inner.clients.lock();
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build_client(host, config, &self.inner.config)?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// `host[:port]` and path (with a slash at its end, or empty) of a mirror; a scheme before it is ignored.
fn mirror_parts(mirror: &str) -> (&str, &str) {
    let rest = mirror.split_once("://").map_or(mirror, |(_, rest)| rest);
    match rest.split_once('/') {
        Some((host, path)) => (host, path.trim_matches('/')),
        None => (rest, ""),
    }
}

/// Reads the host's certificates (small files, once per host) and makes a client.
fn build_client(host: &str, config: &HostConfig, all: &RegistryConfig) -> Result<Client, RegistryError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|error| config_error(host, format!("cannot read {}: {error}", path.display())))
    };
    let agent = match all.user_agent.as_str() {
        "" => concat!("rbuild/", env!("CARGO_PKG_VERSION")),
        agent => agent,
    };
    let mut builder = Client::builder()
        .user_agent(agent)
        .connect_timeout(all.retry.connect_timeout)
        .http2_adaptive_window(true)
        .referer(false)
        .redirect(redirect_policy(config.insecure))
        .tls_danger_accept_invalid_certs(config.insecure);
    for path in &config.ca {
        let certificates = Certificate::from_pem_bundle(&read(path)?).map_err(|error| {
            config_error(host, format!("{}: {}", path.display(), transport::chain(&error)))
        })?;
        if certificates.is_empty() {
            return Err(config_error(host, format!("{} has no certificate", path.display())));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    // A TLS client shows one certificate: the first pair, as the only one that can be chosen without a hint.
    if let Some(pair) = config.keypairs.first() {
        let pem = [read(&pair.cert)?, b"\n".to_vec(), read(&pair.key)?].concat();
        let identity = Identity::from_pem(&pem).map_err(|error| {
            config_error(host, format!("{}: {}", pair.cert.display(), transport::chain(&error)))
        })?;
        builder = builder.identity(identity);
    }
    if config.keypairs.len() > 1 {
        return Err(config_error(host, "more than one client certificate".into()));
    }
    builder.build().map_err(|error| config_error(host, transport::chain(&error)))
}

pub(crate) const TOO_MANY_REDIRECTS: &str = "too many redirects";
pub(crate) const REDIRECT_TO_HTTP: &str = "redirect from https to http";
pub(crate) const REDIRECT_TO_LINK_LOCAL: &str = "redirect to a link-local address";

/// Follows redirects (blobs mostly live elsewhere); reqwest drops credentials when the host changes. Not from https to
/// http, and not to addresses that serve secrets to whoever is on the machine.
fn redirect_policy(insecure: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error(TOO_MANY_REDIRECTS);
        }
        let was_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if was_https && attempt.url().scheme() != "https" && !insecure {
            return attempt.error(REDIRECT_TO_HTTP);
        }
        let link_local = match attempt.url().host() {
            Some(url::Host::Ipv4(ip)) => ip.is_link_local(),
            Some(url::Host::Ipv6(ip)) => {
                ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local())
            }
            _ => false,
        };
        if link_local { attempt.error(REDIRECT_TO_LINK_LOCAL) } else { attempt.follow() }
    })
}

fn config_error(host: &str, reason: String) -> RegistryError {
    RegistryError::Config { host: host.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Anonymous;
    use crate::config::KeyPair;

    fn bases(config: RegistryConfig, name: &str, options: RepoOptions) -> Vec<String> {
        let name = ImageRef::parse(name).unwrap();
        let repository =
            Registry::new(config).unwrap().repository(&name, Arc::new(Anonymous), options).unwrap();
        repository.pull_endpoints().map(|endpoint| endpoint.base.to_string()).collect()
    }

    fn with(host: &str, config: HostConfig) -> RegistryConfig {
        RegistryConfig { hosts: BTreeMap::from([(host.to_owned(), config)]), ..RegistryConfig::default() }
    }

    #[test]
    fn schemes_follow_the_configuration() {
        let none = RegistryConfig::default;
        assert_eq!(bases(none(), "ubuntu", RepoOptions::default()), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(bases(none(), "localhost:5000/a", RepoOptions::default()), ["http://localhost:5000/v2/"]);
        let insecure = RepoOptions { insecure: true };
        assert_eq!(bases(none(), "h.io/a", insecure), ["https://h.io/v2/", "http://h.io/v2/"]);
        let https = with("localhost:5000", HostConfig { http: Some(false), ..HostConfig::default() });
        assert_eq!(bases(https, "localhost:5000/a", RepoOptions::default()), ["https://localhost:5000/v2/"]);
        let http = with("h.io", HostConfig { http: Some(true), ..HostConfig::default() });
        assert_eq!(bases(http, "h.io/a", RepoOptions::default()), ["http://h.io/v2/"]);
    }

    #[test]
    fn mirrors_come_first_in_their_order() {
        let mirrors = vec!["m.io".into(), "localhost:5000/a/b/".into(), "https://x.io/c".into()];
        let config = with("docker.io", HostConfig { mirrors, ..HostConfig::default() });
        assert_eq!(
            bases(config, "ubuntu", RepoOptions::default()),
            [
                "https://m.io/v2/",
                "http://localhost:5000/v2/a/b",
                "https://x.io/v2/c",
                "https://registry-1.docker.io/v2/"
            ]
        );
    }

    #[test]
    fn bad_certificates_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        for config in [
            HostConfig { ca: vec![path.clone()], ..HostConfig::default() },
            HostConfig { ca: vec![dir.path().join("gone")], ..HostConfig::default() },
            HostConfig {
                keypairs: vec![KeyPair { key: path.clone(), cert: path.clone() }],
                ..HostConfig::default()
            },
        ] {
            let error = Registry::new(with("h.io", config)).unwrap_err();
            assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
        }
    }
}
