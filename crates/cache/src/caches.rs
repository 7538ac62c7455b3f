//! Caches elsewhere, by type and attributes: [`Caches`], [`CacheExporter`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rbuild_digest::Digest;
use rbuild_oci::{ImageRef, Provider};
use rbuild_progress::Reporter;
use rbuild_registry::{Credentials, Registry, RepoOptions};
use rbuild_session::{Session, SessionGroup, SessionManager};
use rbuild_store::Store;

use crate::attrs::Attrs;
use crate::backend::http::Http;
use crate::backend::{
    ClientDir, GhaOptions, GhaPlace, Place, RegistryPlace, S3Options, S3Place, WhileConnected,
};
use crate::error::{CacheError, Result};
use crate::remote::RemoteCache;

/// How long an export waits for the client that is to take it. Source: protocol notes, "The session".
const SESSION_WAIT: Duration = Duration::from_secs(5);

/// What caches elsewhere need from the daemon.
#[derive(Debug, Clone)]
pub struct Caches {
    /// Where refs are made and layers come from.
    pub store: Store,
    /// Registries.
    pub registry: Arc<Registry>,
    /// Clients.
    pub sessions: Arc<SessionManager>,
    /// Object stores.
    pub http: Http,
}

/// On whose behalf a cache is read or written.
#[derive(Debug, Clone)]
pub struct Client {
    /// Where the client can be reached.
    pub sessions: SessionGroup,
    /// Its credentials for registries.
    pub credentials: Arc<dyn Credentials>,
}

/// A cache to import from, whose attributes make sense.
#[derive(Debug)]
pub struct CacheImport {
    from: Source,
    mounts: Vec<String>,
}

#[derive(Debug)]
enum Source {
    Registry(RegistryAddress),
    Local { store: String, digest: Digest },
    S3(Box<S3Options>),
    Gha(Box<GhaOptions>),
}

/// A name in a registry.
#[derive(Debug, Clone)]
pub(crate) struct RegistryAddress {
    /// As the user wrote it.
    shown: String,
    name: ImageRef,
    insecure: bool,
}

impl RegistryAddress {
    pub(crate) fn take(attrs: &mut Attrs) -> Result<Self> {
        let insecure = attrs.flag("registry.insecure", false)?;
        let (shown, name) = attrs.reference()?;
        Ok(Self { shown, name, insecure })
    }
}

impl CacheImport {
    /// Errors: unknown types and attributes, values that make no sense.
    pub fn parse(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Self, CacheError> {
        let mut attrs = Attrs::new(kind, attrs);
        attrs.drop_export_attributes();
        let from = match kind {
            "registry" => Source::Registry(RegistryAddress::take(&mut attrs)?),
            "s3" => {
                attrs.ignore(&S3Options::FOR_EXPORTS);
                Source::S3(Box::new(S3Options::take(&mut attrs)?))
            }
            "gha" => Source::Gha(Box::new(GhaOptions::take(&mut attrs)?)),
            "local" => {
                let src = attrs.take("src").ok_or(CacheError::Missing { kind: "local", name: "src" })?;
                attrs.take("tag");
                let digest = attrs.digest()?.ok_or(CacheError::Missing { kind: "local", name: "digest" })?;
                Source::Local { store: format!("local:{src}"), digest }
            }
            other => {
                return Err(CacheError::UnknownType { direction: "importer", kind: other.to_owned() });
            }
        };
        let mounts = attrs.mounts();
        attrs.finish()?;
        Ok(Self { from, mounts })
    }

    /// What the import's step is called.
    pub fn step_name(&self) -> String {
        let name = match &self.from {
            Source::Registry(address) => address.shown.clone(),
            Source::Local { digest, .. } => format!("local:{}", digest.short()),
            Source::S3(options) => options.shown(),
            Source::Gha(options) => options.shown(),
        };
        format!("importing cache manifest from {name}")
    }
}

/// The step of an import that cannot even be begun.
pub fn import_step_name(kind: &str, attrs: &BTreeMap<String, String>) -> String {
    let what = attrs.get("ref").map_or(kind, String::as_str);
    format!("importing cache manifest from {what}")
}

impl Caches {
    /// Starts importing, beside the build. A failure is told by the step and means an empty cache.
    pub fn import(&self, import: CacheImport, client: &Client, reporter: Reporter) -> Arc<RemoteCache> {
        let (caches, client, mounts) = (self.clone(), client.clone(), import.mounts);
        let place = async move {
            let place: Arc<dyn Place> = match import.from {
                Source::Registry(address) => caches.registry(&client, &address)?,
                Source::S3(options) => caches.s3(*options),
                Source::Gha(options) => caches.gha(*options),
                Source::Local { store, digest } => {
                    let session = caches.session(&client, rbuild_session::names::CONTENT_READ).await?;
                    Arc::new(ClientDir::new(store.clone(), session, store, Some(digest)))
                }
            };
            let sessions = caches.sessions.clone();
            let provider = WhileConnected { inner: place.provider(), sessions, group: client.sessions };
            let provider: Arc<dyn Provider> = Arc::new(provider);
            Ok((place, provider))
        };
        RemoteCache::start(self.store.clone(), place, (mounts, reporter))
    }

    pub(crate) fn registry(&self, client: &Client, address: &RegistryAddress) -> Result<Arc<dyn Place>> {
        let RegistryAddress { shown, name, insecure } = address.clone();
        let options = RepoOptions { insecure };
        let repository = self.registry.repository(&name, client.credentials.clone(), options)?;
        Ok(Arc::new(RegistryPlace::new(shown, name, repository)))
    }

    pub(crate) fn s3(&self, options: S3Options) -> Arc<dyn Place> {
        Arc::new(S3Place::new(self.http.clone(), options))
    }

    pub(crate) fn gha(&self, options: GhaOptions) -> Arc<dyn Place> {
        Arc::new(GhaPlace::new(self.http.clone(), options))
    }

    pub(crate) async fn session(&self, client: &Client, method: &'static str) -> Result<Session> {
        let any = self.sessions.any_with(&client.sessions, method);
        match tokio::time::timeout(SESSION_WAIT, any).await {
            Ok(session) => Ok(session?),
            Err(_) => {
                Err(CacheError::Slow { what: "the client's session".into(), seconds: SESSION_WAIT.as_secs() })
            }
        }
    }
}
