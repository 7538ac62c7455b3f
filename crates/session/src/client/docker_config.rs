//! The docker command line's configuration file, as far as it knows credentials.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::{Credentials, Result, SessionError};

/// The host under which daemons ask for Docker Hub, and the name it has in the file.
const HUB_HOST: &str = "registry-1.docker.io";
const HUB_NAME: &str = "https://index.docker.io/v1/";
/// A helper may have to ask the user's key ring, which may have to ask the user.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// What a helper answers in place of a user when the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// Longest answer of a helper.
const MAX_ANSWER: usize = 1024 * 1024;

/// Credentials by host, helpers to ask for them, and the default helper.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DockerConfig {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
    /// Where helpers are looked for, instead of in `PATH`.
    #[serde(skip)]
    search: Option<PathBuf>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl std::fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerConfig")
            .field("hosts", &self.auths.keys())
            .field("helpers", &self.cred_helpers)
            .field("store", &self.creds_store)
            .finish()
    }
}

impl DockerConfig {
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub fn default_path() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
        Some(dir.join("config.json"))
    }

    /// Reads a file; a missing one knows nothing. Blocking.
    pub fn load(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&bytes)
                .map_err(|err| SessionError::Config { what: format!("{}: {err}", path.display()) }),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(err) => Err(SessionError::io(path.display().to_string(), err)),
        }
    }

    /// Parses the file's content.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Looks for credential helpers in `dir` only.
    pub fn with_search_path(mut self, dir: &Path) -> Self {
        self.search = Some(dir.to_owned());
        self
    }

    /// What is known for a registry host, as daemons name it; empty if nothing.
    pub async fn credentials(&self, host: &str) -> Result<Credentials> {
        let name = if matches!(host, HUB_HOST | "docker.io" | "index.docker.io") { HUB_NAME } else { host };
        let helper =
            self.cred_helpers.iter().find(|(known, _)| same_host(known, name)).map(|(_, helper)| helper);
        let helper = helper.or(Some(&self.creds_store)).filter(|helper| !helper.is_empty());
        if let Some(helper) = helper {
            let found = ask_helper(helper, name, self.search.as_deref()).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let exact = self.auths.get(name);
        let known =
            exact.or_else(|| self.auths.iter().find(|(key, _)| same_host(key, name)).map(|(_, auth)| auth));
        known.map_or(Ok(Credentials::default()), |auth| auth.credentials(name))
    }
}

/// Keys may be bare hosts or URLs with a path.
fn same_host(key: &str, name: &str) -> bool {
    let bare = |text: &str| {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest).to_ascii_lowercase()
    };
    bare(key) == bare(name)
}

impl Auth {
    fn credentials(&self, name: &str) -> Result<Credentials> {
        if !self.identitytoken.is_empty() {
            return Ok(Credentials { username: String::new(), secret: self.identitytoken.clone() });
        }
        if self.auth.is_empty() {
            return Ok(Credentials { username: self.username.clone(), secret: self.password.clone() });
        }
        let bad =
            || SessionError::Config { what: format!("docker configuration: `auth` of {name} is malformed") };
        let bytes = base64::engine::general_purpose::STANDARD.decode(&self.auth).map_err(|_| bad())?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let (username, secret) = text.split_once(':').ok_or_else(bad)?;
        Ok(Credentials { username: username.to_owned(), secret: secret.trim_end_matches('\0').to_owned() })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// The helper protocol: `docker-credential-<helper> get`, the name on standard input, JSON on standard output.
async fn ask_helper(helper: &str, name: &str, search: Option<&Path>) -> Result<Credentials> {
    let program = format!("docker-credential-{helper}");
    let config = |what: String| SessionError::Config { what: format!("{program}: {what}") };
    if helper.contains('/') {
        return Err(config("a helper is named without a path".to_owned()));
    }
    let path = search.map_or_else(|| PathBuf::from(&program), |dir| dir.join(&program));
    let output = tokio::time::timeout(HELPER_TIMEOUT, run_helper(&path, name)).await;
    let output = output.map_err(|_| config("no answer".to_owned()))?;
    let output = output.map_err(|err| SessionError::io(program.clone(), err))?;
    if output.stdout.len() > MAX_ANSWER {
        return Err(config("its answer is too long".to_owned()));
    }
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        // Helpers say so on standard output, in these words.
        if text.contains("credentials not found") {
            return Ok(Credentials::default());
        }
        let text: String = text.trim().chars().take(500).collect();
        return Err(config(format!("{}: {text}", output.status)));
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout)
        .map_err(|_| config("its answer is not understood".to_owned()))?;
    let username = if answer.username == TOKEN_USER { String::new() } else { answer.username };
    Ok(Credentials { username, secret: answer.secret })
}

async fn run_helper(program: &Path, name: &str) -> io::Result<std::process::Output> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(name.as_bytes()).await?;
    }
    child.wait_with_output().await
}
