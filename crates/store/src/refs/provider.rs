use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, Provider};

use crate::store::Recent;

/// Sources of blobs that are remembered: as many as lazy layers a daemon meets in a day.
const MAX_PROVIDERS: usize = 8192;

/// Makes a source of bytes out of what a lazy layer remembers of it, after a restart.
#[async_trait]
pub trait ProviderFactory: Send + Sync + std::fmt::Debug {
    /// A provider for `desc`. `origin` is [`crate::LayerSource::origin`] of whoever made the layer.
    async fn provider(&self, origin: &str, desc: &Descriptor) -> io::Result<Arc<dyn Provider>>;

    /// Whether layers of this origin can be found again at all.
    fn serves(&self, origin: &str) -> bool;
}

/// Where blobs can be fetched from, by digest.
#[derive(Debug)]
pub(crate) struct Providers(Recent<Digest, Arc<dyn Provider>>);

impl Default for Providers {
    fn default() -> Self {
        Self(Recent::new(MAX_PROVIDERS))
    }
}

impl Providers {
    pub(crate) fn get(&mut self, digest: &Digest) -> Option<Arc<dyn Provider>> {
        self.0.get(digest).filter(|provider| provider.is_open()).cloned()
    }

    pub(crate) fn put(&mut self, digest: Digest, provider: Arc<dyn Provider>) {
        self.0.put(digest, provider);
    }
}

/// One async lock per key, as long as somebody uses it.
#[derive(Debug)]
pub(crate) struct KeyedLocks<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq> KeyedLocks<K> {
    pub(crate) async fn lock(&self, key: K) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut map = self.0.lock();
            map.retain(|_, lock| lock.strong_count() > 0);
            let entry = map.entry(key).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::default());
                *entry = Arc::downgrade(&lock);
                lock
            })
        };
        lock.lock_owned().await
    }
}
