use std::collections::HashMap;

use parking_lot::Mutex;
use rbuild_digest::Digest;

use crate::store::Store;

/// Blobs that somebody works with.
#[derive(Debug, Default)]
pub(crate) struct Pins(HashMap<Digest, usize>);

impl Pins {
    pub(crate) fn is_pinned(&self, digest: &Digest) -> bool {
        self.0.contains_key(digest)
    }

    fn add(&mut self, digest: Digest) {
        *self.0.entry(digest).or_default() += 1;
    }

    fn release(&mut self, digest: &Digest) {
        if let Some(count) = self.0.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(digest);
            }
        }
    }
}

/// Keeps blobs from being collected between their writing and the row that names them.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    blobs: Mutex<Vec<Digest>>,
}

impl Store {
    /// A lease on nothing yet.
    pub fn lease(&self) -> Lease {
        Lease { store: self.clone(), blobs: Mutex::default() }
    }
}

impl Lease {
    /// Keeps a blob, whether it is here already or not, until the lease is dropped. Call it before the blob is
    /// written or looked for.
    pub fn blob(&self, digest: Digest) {
        self.store.inner.pins.lock().add(digest);
        self.blobs.lock().push(digest);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pins = self.store.inner.pins.lock();
        for digest in self.blobs.get_mut().drain(..) {
            pins.release(&digest);
        }
    }
}
