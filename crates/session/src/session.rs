use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rbuild_api::moby::buildkit::secrets::v1 as secrets;
use rbuild_api::moby::filesync::v1 as wire;
use rbuild_api::moby::filesync::v1::auth_client::AuthClient;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::{Registration, Result, SessionError, names};

/// Largest secret that is taken from a client; clients send at most 500 KiB.
const MAX_SECRET: usize = 1024 * 1024;
/// How long a client may take for an answer: long enough for a person who is asked by a key ring.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// An open session, seen from the daemon. A cheap handle.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registration: Registration,
    /// Lower case: the list compares without case.
    methods: HashSet<String>,
    channel: Channel,
    token: CancellationToken,
}

/// User and secret for a registry; both empty means anonymous. An empty user with a secret is an identity token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or identity token.
    pub secret: String,
}

impl Credentials {
    /// Nothing known.
    pub fn is_empty(&self) -> bool {
        self.username.is_empty() && self.secret.is_empty()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Asks the client to fetch a token, so that the password stays there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// OAuth client id.
    pub client_id: String,
    /// Registry host.
    pub host: String,
    /// Where the token is fetched.
    pub realm: String,
    /// Service named by the challenge.
    pub service: String,
    /// Scopes.
    pub scopes: Vec<String>,
}

/// A registry token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token {
    /// The bearer token.
    pub token: String,
    /// Seconds of validity; 0 if unknown.
    pub expires_in_s: i64,
    /// Unix seconds; 0 if unknown.
    pub issued_at_unix_s: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_in_s", &self.expires_in_s).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(registration: Registration, channel: Channel, token: CancellationToken) -> Self {
        let methods = registration.methods.iter().map(|method| method.to_ascii_lowercase()).collect();
        Self { inner: Arc::new(Inner { registration, methods, channel, token }) }
    }

    /// The id builds name it by.
    pub fn id(&self) -> &str {
        &self.inner.registration.id
    }

    /// A name for people; may be empty.
    pub fn name(&self) -> &str {
        &self.inner.registration.name
    }

    /// Identifies the client's directories over many builds; may be empty.
    pub fn shared_key(&self) -> &str {
        &self.inner.registration.shared_key
    }

    /// Who opened it, as the listener knew.
    pub fn identity(&self) -> Option<&str> {
        self.inner.registration.identity.as_deref()
    }

    /// Did the client list this method (`/package.Service/Method`)? Others must not be called.
    pub fn supports(&self, method: &str) -> bool {
        self.inner.methods.contains(&method.to_ascii_lowercase())
    }

    /// gRPC to the client, for services that have no typed call here. Check [`Session::supports`] first.
    pub fn channel(&self) -> Channel {
        self.inner.channel.clone()
    }

    /// Is it over?
    pub fn is_closed(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// Returns when it is over.
    pub async fn closed(&self) {
        self.inner.token.cancelled().await;
    }

    /// Ends it: everything in flight fails at once.
    pub fn close(&self) {
        self.inner.token.cancel();
    }

    pub(crate) fn same(&self, other: &Session) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn gone(&self) -> SessionError {
        SessionError::Closed { id: self.id().to_owned() }
    }

    pub(crate) fn require(&self, method: &'static str) -> Result<()> {
        if self.supports(method) { Ok(()) } else { Err(SessionError::Unsupported { method }) }
    }

    /// Runs `work` unless the session ends first.
    pub(crate) async fn until_closed<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.closed() => Err(self.gone()),
            done = work => done,
        }
    }

    /// One call and its answer.
    async fn ask<T>(
        &self,
        what: impl FnOnce() -> String,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    ) -> Result<T> {
        self.until_closed(async {
            let late = || Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
            let answer = tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(late()));
            answer.map(tonic::Response::into_inner).map_err(|status| SessionError::call(what(), status))
        })
        .await
    }

    fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel())
    }

    /// What the client knows for a registry host (`registry-1.docker.io` for Docker Hub); empty if nothing.
    pub async fn credentials(&self, host: &str) -> Result<Credentials> {
        self.require(names::AUTH_CREDENTIALS)?;
        let mut auth = self.auth();
        let call = auth.credentials(wire::CredentialsRequest { host: host.to_owned() });
        let answer = self.ask(|| format!("credentials for {host}"), call).await?;
        Ok(Credentials { username: answer.username, secret: answer.secret })
    }

    /// Lets the client fetch a token. `is_unsupported()` on the error: use [`Session::credentials`] instead.
    pub async fn fetch_token(&self, request: &TokenRequest) -> Result<Token> {
        self.require(names::AUTH_FETCH_TOKEN)?;
        let message = wire::FetchTokenRequest {
            client_id: request.client_id.clone(),
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        };
        let mut auth = self.auth();
        let answer = self.ask(|| format!("token for {}", request.host), auth.fetch_token(message)).await?;
        Ok(Token { token: answer.token, expires_in_s: answer.expires_in, issued_at_unix_s: answer.issued_at })
    }

    /// The public key by which the client proves its right to tokens of `host`; `None` if it has no such proof.
    pub async fn token_authority(&self, host: &str, salt: &[u8]) -> Result<Option<Vec<u8>>> {
        if !self.supports(names::AUTH_GET_TOKEN_AUTHORITY) {
            return Ok(None);
        }
        let message = wire::GetTokenAuthorityRequest { host: host.to_owned(), salt: salt.to_vec() };
        let mut auth = self.auth();
        let call = auth.get_token_authority(message);
        match self.ask(|| format!("token authority for {host}"), call).await {
            Ok(answer) => Ok(Some(answer.public_key)),
            Err(err) if err.is_unsupported() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// The client's signature over `payload` by the key of [`Session::token_authority`].
    pub async fn verify_token_authority(&self, host: &str, payload: &[u8], salt: &[u8]) -> Result<Vec<u8>> {
        self.require(names::AUTH_VERIFY_TOKEN_AUTHORITY)?;
        let message = wire::VerifyTokenAuthorityRequest {
            host: host.to_owned(),
            payload: payload.to_vec(),
            salt: salt.to_vec(),
        };
        let mut auth = self.auth();
        let call = auth.verify_token_authority(message);
        Ok(self.ask(|| format!("token authority for {host}"), call).await?.signed)
    }

    /// The secret `id`. Errors: `is_not_found()` if the client has none of that id (or offers none at all).
    pub async fn get_secret(&self, id: &str) -> Result<Vec<u8>> {
        if !self.supports(names::SECRETS_GET) {
            let status = Status::not_found("not found");
            return Err(SessionError::call(format!("secret {id}"), status));
        }
        let message = secrets::GetSecretRequest { id: id.to_owned(), ..Default::default() };
        let mut client = secrets::secrets_client::SecretsClient::new(self.channel())
            .max_decoding_message_size(MAX_SECRET + 1024);
        Ok(self.ask(|| format!("secret {id}"), client.get_secret(message)).await?.data)
    }
}
