use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::{Host, Url};

use super::{Challenge, Credentials, Login, Token, TokenQuery, parse_challenges};
use crate::RegistryError;
use crate::config::is_loopback;

/// A token's answer is a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;
/// How long a token is good if its service does not say (the specification's number).
const DEFAULT_LIFE_S: u64 = 60;
/// Tokens are given up this much early, so that they do not expire on the way.
const MARGIN: Duration = Duration::from_secs(10);
/// For the token service to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
const CLIENT_ID: &str = "rbuild";

/// What a request needs to be allowed, for instance `repository:library/ubuntu:pull`. Sorted and unique.
pub(crate) type Scope = BTreeSet<String>;

/// Our standing with one host, in the name of one set of credentials.
#[derive(Debug)]
pub(crate) struct Authority {
    host: String,
    /// The registry itself is spoken to in plain http.
    plain_http: bool,
    client: Client,
    credentials: Arc<dyn Credentials>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    scheme: Scheme,
    tokens: BTreeMap<Scope, Issued>,
}

#[derive(Debug, Default, Clone)]
enum Scheme {
    /// Nobody has challenged us yet.
    #[default]
    Unknown,
    Basic(Login),
    Bearer {
        realm: Url,
        service: String,
    },
}

#[derive(Debug, Clone)]
struct Issued {
    header: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<i64>,
}

impl Authority {
    pub(crate) fn new(
        host: String,
        plain_http: bool,
        client: Client,
        credentials: Arc<dyn Credentials>,
    ) -> Self {
        Self { host, plain_http, client, credentials, state: Mutex::default() }
    }

    /// The header for a request that needs `scope`, if the host is known to want one.
    pub(crate) async fn header(&self, scope: &Scope) -> Result<Option<HeaderValue>, RegistryError> {
        let mut state = self.state.lock().await;
        match state.scheme.clone() {
            Scheme::Unknown => Ok(None),
            Scheme::Basic(login) => Ok(Some(basic(&login)?)),
            Scheme::Bearer { realm, service } => {
                if let Some(issued) = state.tokens.get(scope)
                    && issued.until > Instant::now()
                {
                    return Ok(Some(issued.header.clone()));
                }
                // The lock is held: one token request at a time per host, later ones find its result.
                let issued = self.fetch(&realm, &service, scope).await?;
                state.tokens.insert(scope.clone(), issued.clone());
                Ok(Some(issued.header))
            }
        }
    }

    /// Takes in the challenges of a 401. False: they lead nowhere new, so the 401 stands.
    ///
    /// `sent`: the header that was refused.
    pub(crate) async fn challenged(
        &self,
        headers: &HeaderMap,
        scope: &Scope,
        sent: Option<&HeaderValue>,
    ) -> Result<bool, RegistryError> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse_challenges)
            .collect();
        let mut state = self.state.lock().await;
        for challenge in &challenges {
            match challenge.scheme.as_str() {
                "bearer" => {
                    let realm = self.check_realm(challenge.params.get("realm").map_or("", String::as_str))?;
                    let service = challenge.params.get("service").cloned().unwrap_or_default();
                    let refused = state.tokens.get(scope).is_some_and(|issued| Some(&issued.header) == sent);
                    if refused {
                        state.tokens.remove(scope);
                        // An expired token is worth a second try, one that is fresh is not.
                        if challenge.params.get("error").is_none_or(|error| error != "invalid_token") {
                            return Ok(false);
                        }
                    }
                    state.scheme = Scheme::Bearer { realm, service };
                    return Ok(true);
                }
                "basic" => {
                    // Others may have been challenged while this request was on its way.
                    if let Scheme::Basic(login) = &state.scheme
                        && sent != Some(&basic(login)?)
                    {
                        return Ok(true);
                    }
                    let Some(login) = self.credentials.login(&self.host).await? else { continue };
                    // The password may have been changed since.
                    if matches!(&state.scheme, Scheme::Basic(refused) if *refused == login) {
                        return Ok(false);
                    }
                    state.scheme = Scheme::Basic(login);
                    return Ok(true);
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// A registry chooses its token service, and we send secrets there: https, unless the registry itself is plain
    /// http; no addresses of this machine or its private network, unless the registry itself is there.
    fn check_realm(&self, realm: &str) -> Result<Url, RegistryError> {
        let refuse = |reason: &str| RegistryError::Token {
            host: self.host.clone(),
            realm: realm.chars().take(200).collect(),
            reason: reason.to_owned(),
        };
        let url = Url::parse(realm).map_err(|_| refuse("the registry names no proper token service"))?;
        let same_host = authority_of(&url) == self.host;
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            "http" => return Err(refuse("the token service is plain http, the registry is not")),
            _ => return Err(refuse("the token service is not http")),
        }
        let address = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(ip.to_canonical()),
            Some(Host::Domain(_)) | None => None,
        };
        let private = match address {
            Some(ip) => is_private(ip),
            None => is_loopback(url.host_str().unwrap_or_default()),
        };
        // Addresses that tell a machine's secrets to whoever is on it: nobody's token service.
        if address.is_some_and(is_link_local) && !same_host {
            return Err(refuse("the token service is at a link-local address"));
        }
        if private && !same_host && !self.plain_http {
            return Err(refuse("the token service is at a private address"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("the token service's URL has credentials"));
        }
        Ok(url)
    }

    async fn fetch(&self, realm: &Url, service: &str, scope: &Scope) -> Result<Issued, RegistryError> {
        let scopes: Vec<String> = scope.iter().cloned().collect();
        let query = TokenQuery { host: &self.host, realm: realm.as_str(), service, scopes: &scopes };
        let token = match self.credentials.token(&query).await? {
            Some(token) => token,
            None => {
                let login = self.credentials.login(&self.host).await?;
                self.ask(realm, service, &scopes, login.as_ref()).await?
            }
        };
        let life = u64::try_from(token.expires_in_s).ok().filter(|s| *s > 0).unwrap_or(DEFAULT_LIFE_S);
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token.secret))
            .map_err(|_| self.token_error(realm, "the token has forbidden characters"))?;
        header.set_sensitive(true);
        let life = Duration::from_secs(life.min(24 * 3600));
        Ok(Issued { header, until: Instant::now() + life.saturating_sub(MARGIN).max(Duration::from_secs(1)) })
    }

    /// A refresh token is posted, user and password go along with a plain question.
    fn question(
        &self,
        realm: &Url,
        service: &str,
        scopes: &[String],
        login: Option<&Login>,
    ) -> Result<RequestBuilder, RegistryError> {
        let mut url = realm.clone();
        Ok(match login {
            Some(login) if login.username.is_empty() => {
                let scope = scopes.join(" ");
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service)
                    .append_pair("client_id", CLIENT_ID)
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", &login.secret)
                    .finish();
                let content = "application/x-www-form-urlencoded";
                self.client.post(url).header(http::header::CONTENT_TYPE, content).body(form)
            }
            login => {
                {
                    let mut pairs = url.query_pairs_mut();
                    if !service.is_empty() {
                        pairs.append_pair("service", service);
                    }
                    for scope in scopes {
                        pairs.append_pair("scope", scope);
                    }
                    if let Some(login) = login {
                        pairs.append_pair("account", &login.username);
                    }
                }
                let request = self.client.get(url);
                match login {
                    Some(login) => request.header(AUTHORIZATION, basic(login)?),
                    None => request,
                }
            }
        })
    }

    async fn ask(
        &self,
        realm: &Url,
        service: &str,
        scopes: &[String],
        login: Option<&Login>,
    ) -> Result<Token, RegistryError> {
        let request = self.question(realm, service, scopes, login)?;
        let answer = tokio::time::timeout(TIMEOUT, async {
            let response = request.send().await.map_err(|error| crate::transport::chain(&error))?;
            let status = response.status();
            let body = crate::transport::read_bounded(response, MAX_ANSWER).await?;
            Ok::<_, String>((status, body))
        });
        let answer =
            answer.await.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
        let (status, body) = answer.map_err(|reason| self.token_error(realm, &reason))?;
        if !status.is_success() {
            let detail = crate::transport::error_detail(&body);
            let reason =
                format!("status {}{}{detail}", status.as_u16(), if detail.is_empty() { "" } else { ": " });
            let what = format!("token for {}", scopes.join(" "));
            return Err(match status.as_u16() {
                401 | 403 => RegistryError::Unauthorized { host: self.host.clone(), what, detail: reason },
                _ => self.token_error(realm, &reason),
            });
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| self.token_error(realm, "the answer is not the JSON of a token"))?;
        let secret = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if secret.is_empty() {
            return Err(self.token_error(realm, "the answer has no token"));
        }
        Ok(Token::new(secret, answer.expires_in.unwrap_or(0)))
    }

    fn token_error(&self, realm: &Url, reason: &str) -> RegistryError {
        let realm = format!("{}{}", authority_of(realm), realm.path());
        RegistryError::Token { host: self.host.clone(), realm, reason: reason.to_owned() }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_private(ip: IpAddr) -> bool {
    let own = match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    };
    own || ip.is_loopback() || ip.is_unspecified() || is_link_local(ip)
}

/// `host[:port]` of a URL, as registries are named.
pub(crate) fn authority_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn basic(login: &Login) -> Result<HeaderValue, RegistryError> {
    let text = format!("Basic {}", STANDARD.encode(format!("{}:{}", login.username, login.secret)));
    let mut header = HeaderValue::from_str(&text).map_err(|_| RegistryError::Credentials {
        host: String::new(),
        reason: "they cannot be sent in a header".into(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}
