use std::sync::Arc;

use async_trait::async_trait;
use rbuild_frontend::Fault;
use rbuild_oci::ImageRef;
use rbuild_registry::{
    Credentials, Login, Registry, RegistryConfig, RegistryError, RepoOptions, Repository, RetryPolicy,
};
use rbuild_session::client::DockerConfig;

use crate::errors::CommandError;
use crate::run;

/// Somebody is waiting at the terminal: less patience than a daemon has.
const ATTEMPTS: u32 = 3;

/// Registries, in the name of the user's docker configuration.
#[derive(Debug)]
pub(super) struct Registries {
    registry: Registry,
    credentials: Arc<dyn Credentials>,
}

impl Registries {
    /// Reads the docker configuration.
    pub(super) fn open() -> Result<Self, CommandError> {
        let config = run::docker_config()?;
        let registry = RegistryConfig {
            user_agent: concat!("rbuildctl/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: RetryPolicy { attempts: ATTEMPTS, ..RetryPolicy::default() },
            ..RegistryConfig::default()
        };
        let registry = Registry::new(registry).map_err(|error| failed(&error))?;
        Ok(Self { registry, credentials: Arc::new(DockerLogins(config)) })
    }

    /// The repository of a name.
    pub(super) fn repository(&self, name: &ImageRef) -> Result<Repository, CommandError> {
        let repository = self.registry.repository(name, self.credentials.clone(), RepoOptions::default());
        repository.map_err(|error| failed(&error))
    }
}

#[derive(Debug)]
struct DockerLogins(DockerConfig);

#[async_trait]
impl Credentials for DockerLogins {
    async fn login(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        let known = self.0.credentials(host).await.map_err(|error| RegistryError::Credentials {
            host: host.to_owned(),
            reason: error.to_string(),
        })?;
        Ok((!known.is_empty()).then(|| Login::new(known.username, known.secret)))
    }
}

/// What a registry sent makes no sense.
pub(super) fn malformed(name: &ImageRef, reason: &str) -> CommandError {
    CommandError::new(format!("{name}: {reason}")).fault(Fault::Malformed)
}

/// A registry that did not do as asked, with the code that a build would give it.
pub(super) fn failed(error: &RegistryError) -> CommandError {
    let text = CommandError::new(error.to_string());
    match error {
        RegistryError::NotFound { .. } => text.fault(Fault::ImageNotFound),
        RegistryError::Unauthorized { host, .. } => {
            let host = if host.ends_with("docker.io") { "" } else { host };
            text.fault(Fault::Unauthorized).hint(format!("docker login {host}").trim_end().to_owned())
        }
        RegistryError::Denied { host, .. } => text
            .fault(Fault::Forbidden)
            .hint(format!("the credentials in your docker configuration for {host} do not allow this")),
        RegistryError::Status { .. } => text.fault(Fault::RegistryStatus),
        RegistryError::Transport { reason, .. } if reason.contains("certificate") => {
            text.fault(Fault::Untrusted)
        }
        RegistryError::Transport { .. } => text.fault(Fault::Unreachable),
        RegistryError::Timeout { .. } => text.fault(Fault::NoAnswer),
        RegistryError::Digest { .. } | RegistryError::Size { .. } => text.fault(Fault::Lied),
        RegistryError::NoPlatform { .. } => text.fault(Fault::NoPlatform),
        RegistryError::TooLarge { .. }
        | RegistryError::Malformed { .. }
        | RegistryError::MediaType { .. } => text.fault(Fault::Malformed),
        RegistryError::Token { .. } | RegistryError::Credentials { .. } => text.fault(Fault::Credentials),
        RegistryError::Config { .. } | RegistryError::Read { .. } => text.fault(Fault::Source),
    }
}
