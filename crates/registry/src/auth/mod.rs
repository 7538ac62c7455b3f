//! Who we are to a registry: credentials, challenges, tokens.

mod challenge;
mod token;

use std::fmt;

use async_trait::async_trait;

pub(crate) use challenge::{Challenge, parse as parse_challenges};
pub(crate) use token::{Authority, Scope};

use crate::RegistryError;

/// Somebody's credentials. Asked for one host at a time, by the name under which it is spoken to
/// (`registry-1.docker.io` for Docker Hub).
#[async_trait]
pub trait Credentials: Send + Sync + fmt::Debug {
    /// User and secret for `host`; `None` is anonymous.
    async fn login(&self, host: &str) -> Result<Option<Login>, RegistryError>;

    /// Lets whoever has the secret fetch the token, so that the secret stays there; `None` if it cannot.
    async fn token(&self, query: &TokenQuery<'_>) -> Result<Option<Token>, RegistryError> {
        let _ = query;
        Ok(None)
    }
}

/// No credentials at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn login(&self, _host: &str) -> Result<Option<Login>, RegistryError> {
        Ok(None)
    }
}

/// User and secret. An empty user name means that the secret is a refresh token.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub(crate) username: String,
    pub(crate) secret: String,
}

impl Login {
    /// User and password, or an empty user and a refresh token.
    pub fn new(username: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { username: username.into(), secret: secret.into() }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What is asked of a token service.
#[derive(Debug, Clone, Copy)]
pub struct TokenQuery<'a> {
    /// The registry.
    pub host: &'a str,
    /// URL of its token service.
    pub realm: &'a str,
    /// The registry's name there.
    pub service: &'a str,
    /// What is to be allowed, `repository:library/ubuntu:pull`.
    pub scopes: &'a [String],
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub(crate) secret: String,
    pub(crate) expires_in_s: i64,
}

impl Token {
    /// A token that is good for `expires_in_s` seconds (0: not known, taken for 60).
    pub fn new(secret: impl Into<String>, expires_in_s: i64) -> Self {
        Self { secret: secret.into(), expires_in_s }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_in_s", &self.expires_in_s).finish_non_exhaustive()
    }
}
