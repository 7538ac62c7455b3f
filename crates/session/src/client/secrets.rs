//! Secrets offered to the daemon.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_api::moby::buildkit::secrets::v1 as wire;
use rbuild_api::moby::buildkit::secrets::v1::secrets_server::SecretsServer;
use tonic::{Request, Response, Status};

use crate::{Result, SessionError};

/// Largest secret, as at the peer's.
const MAX_SECRET: u64 = 500 * 1024;

/// Where a secret is.
#[derive(Clone)]
pub enum SecretSource {
    /// In a file, read when the secret is asked for.
    File(PathBuf),
    /// In an environment variable, read when the secret is asked for.
    Env(String),
    /// Here.
    Value(Vec<u8>),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::Value(_) => f.write_str("Value"),
        }
    }
}

/// Secrets by id; the daemon gets no others.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    sources: HashMap<String, SecretSource>,
}

impl Secrets {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a secret. Errors: its file or variable is missing, or the file is too large.
    pub fn add(&mut self, id: impl Into<String>, source: SecretSource) -> Result<()> {
        let id = id.into();
        if id.is_empty() {
            return Err(SessionError::Config { what: "a secret needs an id".to_owned() });
        }
        read(&id, &source)?;
        self.sources.insert(id, source);
        Ok(())
    }
}

fn read(id: &str, source: &SecretSource) -> Result<Vec<u8>> {
    let bytes = match source {
        SecretSource::Value(value) => value.clone(),
        SecretSource::Env(name) => {
            use std::os::unix::ffi::OsStringExt;
            let missing = || SessionError::Config {
                what: format!("secret {id}: environment variable {name} is not set"),
            };
            std::env::var_os(name).ok_or_else(missing)?.into_vec()
        }
        SecretSource::File(path) => {
            let failed = |err| SessionError::io(format!("secret {id}: {}", path.display()), err);
            let file = std::fs::File::open(path).map_err(failed)?;
            let mut bytes = Vec::new();
            file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(failed)?;
            bytes
        }
    };
    if bytes.len() as u64 > MAX_SECRET {
        return Err(SessionError::Config { what: format!("secret {id} is larger than {MAX_SECRET} bytes") });
    }
    Ok(bytes)
}

pub(super) fn service(secrets: Secrets) -> SecretsServer<SecretService> {
    SecretsServer::new(SecretService { secrets: Arc::new(secrets) })
}

#[derive(Debug)]
pub(super) struct SecretService {
    secrets: Arc<Secrets>,
}

#[tonic::async_trait]
impl wire::secrets_server::Secrets for SecretService {
    async fn get_secret(
        &self,
        request: Request<wire::GetSecretRequest>,
    ) -> std::result::Result<Response<wire::GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let Some(source) = self.secrets.sources.get(&id).cloned() else {
            return Err(Status::not_found(format!("secret {id} not found")));
        };
        tracing::debug!(secret = id, "secret asked for");
        let read = tokio::task::spawn_blocking(move || read(&id, &source)).await;
        let data = read.map_err(|_| Status::internal("reading a secret was interrupted"))??;
        Ok(Response::new(wire::GetSecretResponse { data }))
    }
}
