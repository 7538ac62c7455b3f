use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rbuild_digest::{Digest, Hasher, random_id};
use rbuild_oci::{ByteStream, Descriptor};

use crate::store::hash_into;
use crate::{ContentError, ContentStore, Result, fetch};

/// Committed blobs are for reading; only root may delete them, by name.
const BLOB_MODE: u32 = 0o444;

/// A blob on its way in.
///
/// Bytes are hashed as they are written. [`Ingest::commit`] makes them a blob; dropping the ingest keeps them, so that
/// the next [`ContentStore::ingest`] of the same key goes on there; [`Ingest::abort`] throws them away.
#[derive(Debug)]
pub struct Ingest {
    store: ContentStore,
    key: String,
    /// Name under `ingest/`.
    name: String,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    offset: u64,
    expected: Option<(Digest, u64)>,
    /// Keep the bytes when dropped?
    resumable: bool,
    /// The file is no longer ours: committed or removed.
    finished: bool,
}

impl Ingest {
    pub(crate) fn open(store: &ContentStore, key: &str, expected: Option<&Descriptor>) -> Result<Self> {
        let mut name = Digest::of(key).hex();
        let mut active = store.inner.active.lock();
        let resumable = active.insert(name.clone());
        if !resumable {
            name = format!("{name}.{}", random_id());
            active.insert(name.clone());
        }
        drop(active);
        let opened = Self::open_named(store, key, name.clone(), expected, resumable);
        if opened.is_err() {
            store.inner.active.lock().remove(&name);
        }
        opened
    }

    fn open_named(
        store: &ContentStore,
        key: &str,
        name: String,
        expected: Option<&Descriptor>,
        resumable: bool,
    ) -> Result<Self> {
        let path = store.inner.ingests.join(&name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(|err| ContentError::io("create", &path, err))?;
        let mut hasher = Hasher::new();
        let offset = hash_into(&mut file, &mut hasher).map_err(|err| ContentError::io("read", &path, err))?;
        let expected = expected.map(|desc| (desc.digest, desc.size));
        let mut ingest = Self {
            store: store.clone(),
            key: key.to_owned(),
            name,
            path,
            file,
            hasher,
            offset,
            expected,
            resumable,
            finished: false,
        };
        if expected.is_some_and(|(_, size)| offset > size) {
            ingest.restart()?;
        }
        Ok(ingest)
    }

    /// How many bytes are here already: where the source should go on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The key this ingest was opened with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Throws away what is here and begins again from nothing (a source that cannot seek).
    pub fn restart(&mut self) -> Result<()> {
        let done = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        done.map_err(|err| ContentError::io("truncate", &self.path, err))?;
        self.hasher = Hasher::new();
        self.offset = 0;
        Ok(())
    }

    /// Appends `bytes`.
    ///
    /// Errors: [`ContentError::SizeMismatch`] as soon as there are more than announced; [`ContentError::NoSpace`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let new = self.offset + bytes.len() as u64;
        if let Some((digest, size)) = self.expected
            && new > size
        {
            self.resumable = false;
            return Err(self.wrong_size(digest, new, size));
        }
        if let Err(err) = self.file.write_all(bytes) {
            // Bytes may have been written in part: what the next attempt finds is hashed again, so it may stay, unless
            // the disk is full and needs the room. This ingest must not go on.
            let err = ContentError::io("write", &self.path, err);
            self.resumable &= !err.is_no_space();
            return Err(err);
        }
        self.hasher.update(bytes);
        self.offset = new;
        Ok(())
    }

    /// Appends a whole stream, on the blocking pool, and gives the ingest back to go on or commit.
    ///
    /// `on_bytes` is told the total so far. Memory is bounded by a few chunks of the stream.
    /// Cancel: safe; what has arrived is kept for the next attempt.
    pub async fn write_stream(self, stream: ByteStream, on_bytes: impl FnMut(u64) + Send) -> Result<Self> {
        fetch::write_stream(self, stream, on_bytes).await
    }

    /// Checks digest and size, and makes the bytes a blob.
    ///
    /// A blob that exists already stays as it is. Errors: [`ContentError::DigestMismatch`],
    /// [`ContentError::SizeMismatch`] (bytes short of the announced size are kept, wrong ones are thrown away).
    pub fn commit(mut self) -> Result<(Digest, u64)> {
        if let Some((digest, size)) = self.expected
            && self.offset != size
        {
            return Err(self.wrong_size(digest, self.offset, size));
        }
        let found = std::mem::take(&mut self.hasher).finish();
        if let Some((expected, _)) = self.expected
            && found != expected
        {
            self.resumable = false;
            return Err(ContentError::DigestMismatch { key: self.key.clone(), found, expected });
        }
        let target = self.store.path(&found);
        if self.store.info(&found)? == Some(self.offset) {
            self.resumable = false; // Drop removes our copy.
            return Ok((found, self.offset));
        }
        self.publish(&target).map_err(|err| ContentError::io("commit", &target, err))?;
        self.store.note_seen(found);
        self.finished = true;
        Ok((found, self.offset))
    }

    fn publish(&self, target: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        self.file.set_permissions(fs::Permissions::from_mode(BLOB_MODE))?;
        if self.store.inner.options.fsync {
            self.file.sync_all()?;
        }
        fs::rename(&self.path, target)?;
        if self.store.inner.options.fsync {
            File::open(&self.store.inner.blobs)?.sync_all()?;
        }
        Ok(())
    }

    /// Throws the bytes away.
    pub fn abort(mut self) {
        self.resumable = false;
    }

    fn wrong_size(&self, expected_digest: Digest, found: u64, expected: u64) -> ContentError {
        ContentError::SizeMismatch { key: self.key.clone(), expected_digest, found, expected }
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ingest::write(self, buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let keep = self.finished || (self.resumable && self.offset > 0);
        if !keep && let Err(err) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), error = %err, "cannot remove an ingest; the next start sweeps it");
        }
        // The name is free once the file is as the next writer may find it.
        self.store.inner.active.lock().remove(&self.name);
    }
}
