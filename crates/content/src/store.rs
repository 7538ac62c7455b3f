use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rbuild_digest::{Digest, Hasher};
use rbuild_oci::Descriptor;

use crate::{ContentError, Ingest, Result};

/// Bytes of an interrupted download older than this are not worth keeping: whoever wanted them gave up.
const STALE_INGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Buffer for hashing and copying files; large enough that the calls do not count.
pub(crate) const BUFFER: usize = 256 * 1024;
/// Digests remembered as seen (some 6 MB); beyond it they are hashed again.
const SEEN_LIMIT: usize = 100_000;

/// How a [`ContentStore`] behaves.
#[derive(Debug, Clone)]
pub struct ContentOptions {
    /// `fsync` every blob and its directory before the commit returns. Off by default: a process crash loses nothing
    /// committed anyway, and after a power cut the store above drops what it had not marked as synced.
    pub fsync: bool,
    /// Age from which an interrupted ingest is removed when the store is opened.
    pub stale_after: Duration,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self { fsync: false, stale_after: STALE_INGEST }
    }
}

/// A directory of immutable blobs; see the crate for its layout. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContentStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) blobs: PathBuf,
    pub(crate) ingests: PathBuf,
    pub(crate) options: ContentOptions,
    /// Names under `ingest/` that somebody writes to now.
    pub(crate) active: Mutex<HashSet<String>>,
    /// Blobs whose bytes this process has seen whole.
    seen: Mutex<HashSet<Digest>>,
}

impl ContentStore {
    /// Opens (makes) the store in `dir` with default options.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, ContentOptions::default())
    }

    /// Opens (makes) the store in `dir` and removes stale and single-use ingests.
    ///
    /// One process at a time may have a store open; the store above holds the lock that sees to it.
    pub fn open_with(dir: impl AsRef<Path>, options: ContentOptions) -> Result<Self> {
        let dir = dir.as_ref();
        let (blobs, ingests) = (dir.join("blobs/sha256"), dir.join("ingest"));
        for path in [&blobs, &ingests] {
            fs::create_dir_all(path).map_err(|err| ContentError::io("create", path, err))?;
        }
        let inner = Inner { blobs, ingests, options, active: Mutex::default(), seen: Mutex::default() };
        let store = Self { inner: Arc::new(inner) };
        store.sweep()?;
        Ok(store)
    }

    /// Size of the blob, if it is here.
    pub fn info(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(ContentError::io("stat", &path, err)),
        }
    }

    /// Bytes that the blob takes on disk, if it is here.
    pub fn disk_bytes(&self, digest: &Digest) -> Result<Option<u64>> {
        use std::os::unix::fs::MetadataExt;
        let path = self.path(digest);
        match fs::symlink_metadata(&path) {
            // The unit of `st_blocks` is 512 bytes, whatever the file system's own blocks are.
            Ok(meta) => Ok(Some(meta.blocks() * 512)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(ContentError::io("stat", &path, err)),
        }
    }

    /// Whether the blob is here.
    pub fn has(&self, digest: &Digest) -> Result<bool> {
        Ok(self.info(digest)?.is_some())
    }

    /// Opens the blob for reading. It stays readable when it is deleted meanwhile.
    ///
    /// What an earlier process left is read whole and hashed before it is used for the first time: disks rot. A rotten
    /// blob is deleted, so that it is made or fetched again, and is an error this once.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let mut file = self.open_file(digest)?;
        if self.inner.seen.lock().contains(digest) {
            return Ok(file);
        }
        let path = self.path(digest);
        let (found, _) = hash_file(&mut file).map_err(|err| ContentError::io("read", &path, err))?;
        if found != *digest {
            tracing::error!(path = %path.display(), "a blob has changed on disk, it is removed");
            self.delete(digest)?;
            return Err(self.rotten(digest, found));
        }
        io::Seek::rewind(&mut file).map_err(|err| ContentError::io("rewind", &path, err))?;
        self.note_seen(*digest);
        Ok(file)
    }

    fn open_file(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => ContentError::NotFound { digest: *digest },
            _ => ContentError::io("open", &path, err),
        })
    }

    /// The blob's bytes went through this process and are what its name says.
    pub(crate) fn note_seen(&self, digest: Digest) {
        let mut seen = self.inner.seen.lock();
        if seen.len() >= SEEN_LIMIT {
            seen.clear();
        }
        seen.insert(digest);
    }

    /// Reads a small blob whole and checks its digest again.
    ///
    /// Errors: [`ContentError::TooLarge`] beyond `limit` bytes.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_file(digest)?;
        let path = self.path(digest);
        let size = file.metadata().map_err(|err| ContentError::io("stat", &path, err))?.len();
        if size > limit {
            return Err(ContentError::TooLarge { digest: *digest, size, limit });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(limit).read_to_end(&mut bytes).map_err(|err| ContentError::io("read", &path, err))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(self.rotten(digest, found));
        }
        Ok(bytes)
    }

    /// Stores `bytes` and returns their digest. Present bytes are not written again.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.info(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut ingest = self.ingest(&format!("put-{digest}"), None)?;
        ingest.restart()?;
        ingest.write(bytes)?;
        ingest.commit()?;
        Ok(digest)
    }

    /// Begins to take in a blob, or goes on where an earlier ingest of the same `key` stopped.
    ///
    /// `expected`: if known, what the bytes must be; checked at commit, and the size already while they come.
    /// Bytes of an earlier attempt are read and hashed again here, so this may take a while. Two ingests of one key at
    /// a time are fine; the second one starts from nothing. See [`Ingest::offset`] for where to go on.
    pub fn ingest(&self, key: &str, expected: Option<&Descriptor>) -> Result<Ingest> {
        Ingest::open(self, key, expected)
    }

    /// Deletes the blob; `false` if it was not here. Open readers go on.
    pub fn delete(&self, digest: &Digest) -> Result<bool> {
        self.inner.seen.lock().remove(digest);
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(ContentError::io("delete", &path, err)),
        }
    }

    /// Calls `f` with every blob and its size, in no order. Foreign files are passed over.
    pub fn walk(&self, mut f: impl FnMut(Digest, u64)) -> Result<()> {
        let dir = &self.inner.blobs;
        for entry in fs::read_dir(dir).map_err(|err| ContentError::io("list", dir, err))? {
            let entry = entry.map_err(|err| ContentError::io("list", dir, err))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok())
            else {
                continue;
            };
            match entry.metadata() {
                Ok(meta) => f(digest, meta.len()),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(ContentError::io("stat", &entry.path(), err)),
            }
        }
        Ok(())
    }

    /// Reads the whole blob and checks its digest; a rotten one is an error, and is left where it is.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let mut file = self.open_file(digest)?;
        let (found, _) =
            hash_file(&mut file).map_err(|err| ContentError::io("read", &self.path(digest), err))?;
        if found == *digest { Ok(()) } else { Err(self.rotten(digest, found)) }
    }

    /// Where the blob lies (or would lie), for tools that need a path; nobody may write there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.join(digest.hex())
    }

    fn rotten(&self, digest: &Digest, found: Digest) -> ContentError {
        ContentError::DigestMismatch {
            key: self.path(digest).display().to_string(),
            found,
            expected: *digest,
        }
    }

    /// Removes ingests that nobody writes to and nobody will come back for. Done when the store is opened; a daemon that
    /// runs for long calls it now and then.
    pub fn sweep(&self) -> Result<()> {
        let dir = &self.inner.ingests;
        let now = SystemTime::now();
        for entry in fs::read_dir(dir).map_err(|err| ContentError::io("list", dir, err))? {
            let entry = entry.map_err(|err| ContentError::io("list", dir, err))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let modified = entry.metadata().and_then(|meta| meta.modified());
            // A time in the future is a clock that jumped, not a stale file.
            let age = modified.ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
            if !name.contains('.') && age <= self.inner.options.stale_after {
                continue;
            }
            // Whoever opens an ingest names it here first.
            let active = self.inner.active.lock();
            if active.contains(&name) {
                continue;
            }
            tracing::debug!(path = %entry.path().display(), "removing a stale ingest");
            match fs::remove_file(entry.path()) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    return Err(ContentError::io("delete", &entry.path(), err));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Digest and length of what is left of `file`.
pub(crate) fn hash_file(file: &mut File) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let len = hash_into(file, &mut hasher)?;
    Ok((hasher.finish(), len))
}

/// Feeds what is left of `file` to `hasher` and returns how much it was.
pub(crate) fn hash_into(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buf = vec![0; BUFFER];
    let mut len = 0;
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(len),
            n => {
                hasher.update(&buf[..n]);
                len += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests;
