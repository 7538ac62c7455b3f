//! Registry credentials offered to the daemon.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rbuild_api::moby::filesync::v1 as wire;
use rbuild_api::moby::filesync::v1::auth_server::{Auth, AuthServer};
use tonic::{Request, Response, Status};

use super::DockerConfig;
use crate::{Credentials, Result, Token, TokenRequest};

/// Knows credentials.
#[async_trait]
pub trait AuthProvider: Send + Sync + fmt::Debug {
    /// For a registry host; empty if none are known.
    async fn credentials(&self, host: &str) -> Result<Credentials>;

    /// A token, fetched here so that the password stays here; `None`: the daemon shall fetch it itself.
    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>>;

    /// Whether [`AuthProvider::fetch_token`] is of any use.
    fn fetches_tokens(&self) -> bool;
}

/// Asks a token service over http: whoever has an http client implements it.
///
/// The realm comes from the daemon, which has it from the registry's challenge. A hostile daemon may name any, so an
/// implementation must not send a password to a realm that is not https (loopback apart), and should check against the
/// registry's own challenge that the realm belongs to it.
#[async_trait]
pub trait TokenFetcher: Send + Sync + fmt::Debug {
    /// Exchanges the credentials (may be empty: anonymous) for a token.
    async fn fetch(&self, credentials: &Credentials, request: &TokenRequest) -> Result<Token>;
}

/// Credentials of the user's docker configuration.
#[derive(Debug, Clone)]
pub struct DockerAuth {
    config: DockerConfig,
    fetcher: Option<Arc<dyn TokenFetcher>>,
    only: Option<HashSet<String>>,
}

impl DockerAuth {
    /// From a configuration; passwords are handed to the daemon.
    pub fn new(config: DockerConfig) -> Self {
        Self { config, fetcher: None, only: None }
    }

    /// Keeps passwords here: tokens are fetched by `fetcher`.
    pub fn with_fetcher(mut self, fetcher: Arc<dyn TokenFetcher>) -> Self {
        self.fetcher = Some(fetcher);
        self
    }

    /// Knows nothing for other hosts than these.
    pub fn only(mut self, hosts: impl IntoIterator<Item = String>) -> Self {
        self.only = Some(hosts.into_iter().collect());
        self
    }

    async fn lookup(&self, host: &str) -> Result<Credentials> {
        if self.only.as_ref().is_some_and(|hosts| !hosts.contains(host)) {
            return Ok(Credentials::default());
        }
        self.config.credentials(host).await
    }
}

#[async_trait]
impl AuthProvider for DockerAuth {
    async fn credentials(&self, host: &str) -> Result<Credentials> {
        self.lookup(host).await
    }

    async fn fetch_token(&self, request: &TokenRequest) -> Result<Option<Token>> {
        let Some(fetcher) = &self.fetcher else { return Ok(None) };
        let credentials = self.lookup(&request.host).await?;
        fetcher.fetch(&credentials, request).await.map(Some)
    }

    fn fetches_tokens(&self) -> bool {
        self.fetcher.is_some()
    }
}

pub(super) fn service(provider: Arc<dyn AuthProvider>) -> AuthServer<AuthService> {
    AuthServer::new(AuthService { provider })
}

#[derive(Debug)]
pub(super) struct AuthService {
    provider: Arc<dyn AuthProvider>,
}

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Auth for AuthService {
    async fn credentials(
        &self,
        request: Request<wire::CredentialsRequest>,
    ) -> Answer<wire::CredentialsResponse> {
        let host = request.into_inner().host;
        tracing::debug!(host, "credentials asked for");
        let known = self.provider.credentials(&host).await?;
        Ok(Response::new(wire::CredentialsResponse { username: known.username, secret: known.secret }))
    }

    async fn fetch_token(
        &self,
        request: Request<wire::FetchTokenRequest>,
    ) -> Answer<wire::FetchTokenResponse> {
        let wanted = request.into_inner();
        tracing::debug!(host = wanted.host, realm = wanted.realm, "token asked for");
        let request = TokenRequest {
            client_id: wanted.client_id,
            host: wanted.host,
            realm: wanted.realm,
            service: wanted.service,
            scopes: wanted.scopes,
        };
        match self.provider.fetch_token(&request).await? {
            Some(token) => Ok(Response::new(wire::FetchTokenResponse {
                token: token.token,
                expires_in: token.expires_in_s,
                issued_at: token.issued_at_unix_s,
            })),
            None => Err(Status::unimplemented("tokens are not fetched here")),
        }
    }

    async fn get_token_authority(
        &self,
        _: Request<wire::GetTokenAuthorityRequest>,
    ) -> Answer<wire::GetTokenAuthorityResponse> {
        Err(Status::unimplemented("no token authority"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<wire::VerifyTokenAuthorityRequest>,
    ) -> Answer<wire::VerifyTokenAuthorityResponse> {
        Err(Status::unimplemented("no token authority"))
    }
}
