use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use rbuild_oci::ImageRef;
use reqwest::Method;
use tokio::sync::OnceCell;

use crate::RegistryError;
use crate::auth::Scope;
use crate::config::RetryPolicy;
use crate::endpoint::Endpoint;
use crate::transport::{Call, Failure, wait_time};

/// Per-use options of a repository.
#[derive(Debug, Clone, Copy, Default)]
pub struct RepoOptions {
    /// As [`crate::HostConfig::insecure`], for this use.
    pub insecure: bool,
}

/// One repository, in the name of somebody. Cheap to clone; clones share tokens.
#[derive(Debug, Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: ImageRef,
    mirrors: Vec<Endpoint>,
    /// The registry itself, by one scheme or two.
    own: Vec<Endpoint>,
    policy: RetryPolicy,
    pull_scope: Scope,
    push_scope: Scope,
    /// The one of `own` that answers: pushes go there from start to end.
    chosen: OnceCell<usize>,
}

impl Repository {
    pub(crate) fn new(
        name: ImageRef,
        mirrors: Vec<Endpoint>,
        own: Vec<Endpoint>,
        policy: RetryPolicy,
    ) -> Self {
        let pull_scope = BTreeSet::from([format!("repository:{}:pull", name.path())]);
        let push_scope = BTreeSet::from([format!("repository:{}:pull,push", name.path())]);
        let chosen = OnceCell::new();
        Self { inner: Arc::new(Inner { name, mirrors, own, policy, pull_scope, push_scope, chosen }) }
    }

    /// Its name, without tag and digest.
    pub fn name(&self) -> &ImageRef {
        &self.inner.name
    }

    /// The same repository, tried no more than so often.
    pub fn with_attempts(&self, attempts: u32) -> Self {
        let Inner { name, mirrors, own, policy, .. } = &*self.inner;
        let policy = RetryPolicy { attempts, ..policy.clone() };
        Self::new(name.clone(), mirrors.clone(), own.clone(), policy)
    }

    pub(crate) fn path(&self) -> &str {
        self.inner.name.path()
    }

    pub(crate) fn policy(&self) -> &RetryPolicy {
        &self.inner.policy
    }

    pub(crate) fn pull_scope(&self) -> &Scope {
        &self.inner.pull_scope
    }

    pub(crate) fn push_scope(&self) -> &Scope {
        &self.inner.push_scope
    }

    /// Mirrors in order, then the registry itself.
    pub(crate) fn pull_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.inner.mirrors.iter().chain(&self.inner.own)
    }

    /// Tries `work` with one endpoint after the other. A mirror is given up at once, whatever its reason; the
    /// registry itself is tried with patience, and its error is the one that is told, unless it cannot be reached
    /// and a mirror could say that the thing does not exist.
    pub(crate) async fn pull<T, W, F>(&self, work: W) -> Result<T, RegistryError>
    where
        W: Fn(Endpoint) -> F + Send + Sync,
        F: Future<Output = Result<T, Failure>> + Send,
        T: Send,
    {
        let mut missing = None;
        for mirror in &self.inner.mirrors {
            match work(mirror.clone()).await {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    tracing::debug!(mirror = mirror.host, error = %failure.error, "mirror has no answer");
                    missing = missing.or(Some(failure.error).filter(RegistryError::is_not_found));
                }
            }
        }
        self.pull_own(work).await.map_err(|error| match error {
            RegistryError::Transport { .. } | RegistryError::Timeout { .. } => missing.unwrap_or(error),
            _ => error,
        })
    }

    async fn pull_own<T, W, F>(&self, work: W) -> Result<T, RegistryError>
    where
        W: Fn(Endpoint) -> F + Send + Sync,
        F: Future<Output = Result<T, Failure>> + Send,
        T: Send,
    {
        let (last, others) = self.inner.own.split_last().ok_or_else(|| RegistryError::Config {
            host: self.inner.name.domain().to_owned(),
            reason: "has no endpoint".into(),
        })?;
        for endpoint in others {
            match work(endpoint.clone()).await {
                Ok(value) => return Ok(value),
                // It speaks: what it says counts.
                Err(failure) if !matches!(failure.error, RegistryError::Transport { .. }) => {
                    return Err(failure.error);
                }
                Err(failure) => {
                    tracing::debug!(host = endpoint.host, error = %failure.error, "trying plain http")
                }
            }
        }
        self.patiently(|| work(last.clone())).await
    }

    /// Tries `work` again as long as its failure may pass, within the policy.
    pub(crate) async fn patiently<T, W, F>(&self, work: W) -> Result<T, RegistryError>
    where
        W: Fn() -> F + Send + Sync,
        F: Future<Output = Result<T, Failure>> + Send,
        T: Send,
    {
        let policy = self.policy();
        let mut tries = 1;
        loop {
            match work().await {
                Ok(value) => return Ok(value),
                Err(failure) if tries < policy.attempts && failure.error.may_pass() => {
                    let wait = wait_time(policy, tries, failure.retry_after);
                    tracing::debug!(error = %failure.error, wait_ms = wait.as_millis(), tries, "trying again");
                    tokio::time::sleep(jitter(wait)).await;
                    tries += 1;
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// The registry itself, by the scheme that it answers to.
    pub(crate) async fn push_endpoint(&self) -> Result<&Endpoint, RegistryError> {
        let own = &self.inner.own;
        let pick = || async {
            for (index, endpoint) in own.iter().enumerate().take(own.len().saturating_sub(1)) {
                let call = Call {
                    method: Method::GET,
                    url: endpoint.base.clone(),
                    headers: HeaderMap::new(),
                    body: None,
                    scope: &Scope::new(),
                    what: "ping",
                };
                match endpoint.client.execute(reqwest::Request::new(call.method, call.url)).await {
                    Ok(_) => return index,
                    Err(error) => {
                        tracing::debug!(host = endpoint.host, error = %crate::transport::chain(&error), "no https");
                    }
                }
            }
            own.len().saturating_sub(1)
        };
        let index = *self.inner.chosen.get_or_init(pick).await;
        own.get(index).ok_or_else(|| RegistryError::Config {
            host: self.inner.name.domain().to_owned(),
            reason: "has no endpoint".into(),
        })
    }
}

/// Spreads waits over a quarter of their length, so that many waiters do not come back at once.
fn jitter(wait: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    wait - wait.mul_f64(0.25 * f64::from(nanos % 1000) / 1000.0)
}
