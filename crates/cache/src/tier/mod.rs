//! A cache that daemons share at all times: read through, written behind.
//!
//! ```text
//! <prefix><manifests_prefix>keys-v1/<key>   a record, under each key that leads to it; small, written once
//! <prefix><blobs_prefix><digest>            layers, as those of exported caches
//! <repository>:keys-v1-<key>                in a registry: a manifest that names the layers and holds the record
//! ```
//!
//! Central types: [`TieredCache`], the solver's first store; [`Tier`], the place with its breaker and the task that writes
//! behind. A record is put after all that it names, so a reader finds it whole or not at all; whatever is missing, torn
//! or slow is a miss. A place that fails is not asked again until the writer has found it alive, so it costs a build one
//! time-out. Nothing of a build waits for what is written. Format: docs/formats/tier.md.

mod cache;
mod login;
mod record;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, ImageRef};
use rbuild_registry::{Registry, RegistryError, RepoOptions};
use rbuild_store::Store;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

pub use cache::TieredCache;

use self::login::{LoginOptions, OwnLogin};
use self::record::TierRecord;
use self::writer::Job;
use crate::attrs::Attrs;
use crate::backend::http::Http;
use crate::backend::{Records, RegistryPlace, S3Options, S3Place};
use crate::error::{CacheError, Result};

/// What a place that does not answer may cost, once. As for connections.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest record: a few thousand layers.
const MAX_RECORD: u64 = 1 << 20;
/// Records that wait to be written. More are forgotten: they are misses for others.
const QUEUE: usize = 4096;
/// Names that the tier is known to have; then they are asked for again.
const MAX_KNOWN: usize = 200_000;
/// How long they are believed in: far less than a bucket's rules keep anything.
const KNOWN_LIFE: Duration = Duration::from_secs(60 * 60);

/// Where the shared cache is, from the daemon's settings.
#[derive(Debug, Clone)]
pub struct TierOptions(At);

#[derive(Debug, Clone)]
enum At {
    Bucket(Box<S3Options>),
    Repository { name: ImageRef, insecure: bool, login: LoginOptions },
}

impl TierOptions {
    /// `attrs`: as of `--cache-to`. Errors: unknown types and attributes, values that make no sense.
    pub fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, CacheError> {
        let mut attrs = Attrs::new("tier", attrs);
        let at = match attrs.take("type").as_deref() {
            Some("s3") => At::Bucket(Box::new(S3Options::take(&mut attrs)?)),
            Some("registry") => repository(&mut attrs)?,
            Some(other) => {
                return Err(CacheError::UnknownType { direction: "tier", kind: other.to_owned() });
            }
            None => return Err(CacheError::Missing { kind: "tier", name: "type" }),
        };
        attrs.finish()?;
        Ok(Self(at))
    }

    /// Errors: the configuration of the registry cannot be used.
    fn open(&self, http: Http, registry: &Registry) -> Result<Box<dyn Records>, RegistryError> {
        match &self.0 {
            At::Bucket(options) => Ok(Box::new(S3Place::new(http, (**options).clone()))),
            At::Repository { name, insecure, login } => {
                let options = RepoOptions { insecure: *insecure };
                let credentials = Arc::new(OwnLogin::new(name.domain(), login.clone()));
                let repository = registry.repository(name, credentials, options)?;
                Ok(Box::new(RegistryPlace::new(name.to_string(), name.clone(), repository)))
            }
        }
    }
}

fn repository(attrs: &mut Attrs) -> Result<At> {
    let text = attrs.take("ref").ok_or(CacheError::Missing { kind: "tier", name: "ref" })?;
    let name = ImageRef::parse(&text).map_err(|error| attrs.bad("ref", &text, &error.to_string()))?;
    if !name.is_name_only() {
        return Err(attrs.bad("ref", &text, "expected a repository; its tags are the records"));
    }
    let insecure = attrs.flag("registry.insecure", false)?;
    Ok(At::Repository { name, insecure, login: LoginOptions::take(attrs)? })
}

/// The shared cache of this daemon.
#[derive(Debug)]
pub struct Tier {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    writer: JoinHandle<()>,
}

/// Names that are there, as far as was seen.
#[derive(Debug)]
struct Known {
    names: HashSet<Digest>,
    since: Instant,
}

/// What the readers and the writer have in common.
#[derive(Debug)]
struct Shared {
    store: Store,
    place: Box<dyn Records>,
    /// It failed, and nobody has heard of it since.
    broken: AtomicBool,
    /// Keys and blobs that are there.
    known: Mutex<Known>,
    waiting: std::sync::atomic::AtomicUsize,
    written: Notify,
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Tier {
    /// Opens it and starts the writer. Nothing is asked yet. Needs a runtime.
    ///
    /// Errors: the configuration of the registry cannot be used.
    pub fn start(
        store: &Store,
        http: &Http,
        registry: &Registry,
        options: &TierOptions,
    ) -> Result<Arc<Self>, RegistryError> {
        let shared = Arc::new(Shared {
            store: store.clone(),
            place: options.open(http.clone(), registry)?,
            broken: AtomicBool::new(false),
            known: Mutex::new(Known { names: HashSet::new(), since: Instant::now() }),
            waiting: 0.into(),
            written: Notify::new(),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        // Owned by the value that is returned, which aborts it.
        let writer = tokio::spawn(writer::run(shared.clone(), queue));
        Ok(Arc::new(Self { shared, jobs, writer }))
    }

    /// Lets others find a record under these keys, some time soon.
    fn write(&self, record: Digest, keys: &[Digest]) {
        let keys: Vec<Digest> = keys.iter().filter(|key| !self.shared.knows(key)).copied().collect();
        if keys.is_empty() {
            return;
        }
        self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        if self.jobs.try_send(Job { record, keys }).is_err() {
            self.shared.done();
            tracing::warn!("the shared cache is too slow: a record is not written to it");
        }
    }

    /// Waits until all is written, at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        let idle = async {
            loop {
                let written = self.shared.written.notified();
                if self.shared.waiting.load(Ordering::SeqCst) == 0 || self.shared.is_broken() {
                    return;
                }
                written.await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!("not all records were written to the shared cache");
        }
    }

    /// The record that a key leads to there.
    async fn record(&self, key: &Digest) -> Option<TierRecord> {
        let bytes = self.shared.asked(self.shared.place.record(key, MAX_RECORD)).await??;
        match TierRecord::parse(&bytes) {
            Ok(record) => {
                self.shared.note(*key);
                Some(record)
            }
            Err(error) => {
                tracing::warn!(%error, %key, "a record of the shared cache makes no sense");
                None
            }
        }
    }

    /// Whether all these blobs can be had.
    async fn has_all(&self, blobs: impl Iterator<Item = &Descriptor>) -> bool {
        for blob in blobs {
            if self.shared.knows(&blob.digest) || self.shared.is_here(blob.digest).await {
                continue;
            }
            if self.shared.asked(self.shared.place.has(blob)).await != Some(true) {
                return false;
            }
            self.shared.note(blob.digest);
        }
        true
    }
}

impl Shared {
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The answer, unless the place fails, or failed before.
    async fn asked<T>(&self, question: impl Future<Output = Result<T>>) -> Option<T> {
        if self.is_broken() {
            return None;
        }
        match tokio::time::timeout(TIMEOUT, question).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => self.breaks(&error),
            Err(_) => {
                let seconds = TIMEOUT.as_secs();
                self.breaks(&CacheError::Slow { what: self.place.name().to_owned(), seconds });
            }
        }
        None
    }

    fn breaks(&self, error: &CacheError) {
        if !self.broken.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, tier = self.place.name(), "the shared cache fails: builds go on without it");
        }
        self.written.notify_waiters();
    }

    fn done(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.written.notify_waiters();
    }

    fn knows(&self, name: &Digest) -> bool {
        let known = self.known.lock();
        known.since.elapsed() < KNOWN_LIFE && known.names.contains(name)
    }

    fn note(&self, name: Digest) {
        let mut known = self.known.lock();
        if known.names.len() >= MAX_KNOWN || known.since.elapsed() >= KNOWN_LIFE {
            *known = Known { names: HashSet::new(), since: Instant::now() };
        }
        known.names.insert(name);
    }

    /// The place says that these are not there.
    fn forget(&self, names: impl IntoIterator<Item = Digest>) {
        let mut known = self.known.lock();
        for name in names {
            known.names.remove(&name);
        }
    }

    async fn is_here(&self, digest: Digest) -> bool {
        let content = self.store.content().clone();
        tokio::task::spawn_blocking(move || content.has(&digest).unwrap_or(false)).await.unwrap_or(false)
    }
}
