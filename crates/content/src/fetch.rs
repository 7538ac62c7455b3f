//! Bytes from an async source into a blocking writer, through a bounded channel.

use bytes::Bytes;
use futures::StreamExt;
use rbuild_oci::{ByteStream, Descriptor, Provider};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::{ContentError, ContentStore, Ingest, Result};

/// Chunks in flight between the source and the disk: enough to keep both busy, few enough to bound memory (chunks of
/// our sources are at most 1 MiB).
const CHUNKS_IN_FLIGHT: usize = 8;
/// What keys of downloads begin with; the digest follows.
pub(crate) const KEY_PREFIX: &str = "fetch-";

impl ContentStore {
    /// Makes sure that the blob is here, taking it from `provider` if not, and going on where an earlier attempt
    /// stopped.
    ///
    /// `on_bytes` is told how many of its bytes are here so far. Errors: [`ContentError::Source`] if the provider
    /// fails, [`ContentError::DigestMismatch`] or [`ContentError::SizeMismatch`] if it lies.
    /// Cancel: safe; what has arrived is kept for the next attempt.
    pub async fn fetch(
        &self,
        desc: &Descriptor,
        provider: &dyn Provider,
        mut on_bytes: impl FnMut(u64) + Send,
    ) -> Result<()> {
        let (store, wanted) = (self.clone(), desc.clone());
        let begun = run(move || {
            if store.has(&wanted.digest)? {
                return Ok(None);
            }
            store.ingest(&format!("{KEY_PREFIX}{}", wanted.digest), Some(&wanted)).map(Some)
        });
        let Some(ingest) = begun.await? else {
            on_bytes(desc.size);
            return Ok(());
        };
        on_bytes(ingest.offset());
        let ingest = if ingest.offset() == desc.size {
            ingest
        } else {
            let stream = provider
                .open(desc, ingest.offset())
                .await
                .map_err(|source| ContentError::Source { key: desc.digest.to_string(), source })?;
            ingest.write_stream(stream, &mut on_bytes).await?
        };
        run(move || ingest.commit()).await.map(drop)
    }
}

pub(crate) async fn write_stream(
    ingest: Ingest,
    mut stream: ByteStream,
    mut on_bytes: impl FnMut(u64) + Send,
) -> Result<Ingest> {
    let key = ingest.key().to_owned();
    let mut total = ingest.offset();
    let (tx, rx) = mpsc::channel(CHUNKS_IN_FLIGHT);
    // If this future is dropped the sender goes with it, and the writer ends by itself.
    let writer = spawn_blocking(move || write_all(ingest, rx));
    let mut failed = None;
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                let len = chunk.len() as u64;
                if tx.send(chunk).await.is_err() {
                    break; // The writer stopped; it says why.
                }
                total += len;
                on_bytes(total);
            }
            Err(source) => {
                failed = Some(ContentError::Source { key, source });
                break;
            }
        }
    }
    drop(tx);
    let ingest = joined(writer.await)??;
    match failed {
        Some(err) => Err(err),
        None => Ok(ingest),
    }
}

fn write_all(mut ingest: Ingest, mut rx: mpsc::Receiver<Bytes>) -> Result<Ingest> {
    while let Some(chunk) = rx.blocking_recv() {
        ingest.write(&chunk)?;
    }
    Ok(ingest)
}

/// Runs `f` on the blocking pool.
pub(crate) async fn run<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(spawn_blocking(f).await)?
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|err| ContentError::Io {
        action: "run",
        path: "blocking task".into(),
        source: std::io::Error::other(err),
    })
}
