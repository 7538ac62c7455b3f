use std::sync::Arc;

use async_trait::async_trait;
use rbuild_registry::{Credentials, Login, RegistryError, Token, TokenQuery};
use rbuild_session::{SessionError, SessionGroup, SessionManager};

/// How the client that shows itself to token services is called.
const CLIENT_ID: &str = "buildkit-client";

/// Registry credentials from whichever client of a group is there.
#[derive(Debug, Clone)]
pub struct SessionCredentials {
    manager: Arc<SessionManager>,
    group: SessionGroup,
}

impl SessionCredentials {
    /// Asks the sessions of `group`.
    pub fn new(manager: Arc<SessionManager>, group: SessionGroup) -> Self {
        Self { manager, group }
    }
}

/// Nobody to ask, or a client without this call, means anonymous; other failures are errors.
fn optional<T>(host: &str, result: Result<T, SessionError>) -> Result<Option<T>, RegistryError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SessionError::NoSession) => Ok(None),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(RegistryError::Credentials { host: host.to_owned(), reason: error.to_string() }),
    }
}

#[async_trait]
impl Credentials for SessionCredentials {
    async fn login(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        if self.group.is_empty() {
            return Ok(None);
        }
        let answer = match self.manager.any(&self.group).await {
            Ok(session) => session.credentials(host).await,
            Err(error) => Err(error),
        };
        let login = optional(host, answer)?;
        Ok(login.filter(|login| !login.is_empty()).map(|login| Login::new(login.username, login.secret)))
    }

    async fn token(&self, query: &TokenQuery<'_>) -> Result<Option<Token>, RegistryError> {
        if self.group.is_empty() {
            return Ok(None);
        }
        let request = rbuild_session::TokenRequest {
            client_id: CLIENT_ID.into(),
            host: query.host.to_owned(),
            realm: query.realm.to_owned(),
            service: query.service.to_owned(),
            scopes: query.scopes.to_vec(),
        };
        let answer = match self.manager.any(&self.group).await {
            Ok(session) => session.fetch_token(&request).await,
            Err(error) => Err(error),
        };
        let token = optional(query.host, answer)?;
        Ok(token.map(|token| Token::new(token.token, token.expires_in_s)))
    }
}
