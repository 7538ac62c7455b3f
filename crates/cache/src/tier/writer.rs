//! Writes behind: one task, one record after the other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rbuild_digest::Digest;
use rbuild_oci::{Compression, CompressionOptions};
use rbuild_store::RecordRow;
use tokio::sync::mpsc;

use super::Shared;
use super::record::{TierLayer, TierRecord};
use crate::error::{CacheError, Result};

/// How often a place that failed is asked whether it is there again.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// A record to be written under keys.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) record: Digest,
    pub(super) keys: Vec<Digest>,
}

/// Until nobody can send jobs any more.
pub(super) async fn run(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>) {
    loop {
        let next = tokio::time::timeout(PROBE_INTERVAL, jobs.recv()).await;
        if shared.is_broken() {
            probe(&shared).await;
        }
        let job = match next {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(_) => continue,
        };
        if !shared.is_broken()
            && let Err(error) = write(&shared, &job).await
        {
            match error {
                // Not the place's fault.
                CacheError::Store(_) | CacheError::Refused { .. } => {
                    tracing::warn!(%error, "a record is not written to the shared cache")
                }
                _ => shared.breaks(&error),
            }
        }
        shared.done();
    }
}

async fn probe(shared: &Shared) {
    let key = Digest::of("probe");
    let probe = shared.place.has_record(&key);
    if let Ok(Ok(_)) = tokio::time::timeout(super::TIMEOUT, probe).await {
        shared.broken.store(false, std::sync::atomic::Ordering::Relaxed);
        tracing::info!(tier = shared.place.name(), "the shared cache answers again");
    }
}

async fn write(shared: &Shared, job: &Job) -> Result<()> {
    let mut missing = Vec::new();
    for key in &job.keys {
        if shared.knows(key) {
            continue;
        }
        match shared.place.has_record(key).await? {
            true => shared.note(*key),
            false => missing.push(*key),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let Some(row) = shared.store.record(&job.record)? else { return Ok(()) };
    let Some(record) = shareable(shared, &row).await? else { return Ok(()) };
    let bytes = Bytes::from(serde_json::to_vec(&record)?);
    let blobs: Vec<_> = record.outputs.iter().flatten().map(TierLayer::desc).collect();
    for key in missing {
        let put = shared.place.put_record(&key, &bytes, &blobs).await;
        if let Err(CacheError::Refused { .. }) = put {
            // They were collected there. Who writes the next record that needs them sends them again.
            shared.forget(blobs.iter().map(|blob| blob.digest));
        }
        put?;
        shared.note(key);
    }
    Ok(())
}

/// The record as others see it, once its blobs are there. `None`: its files are gone, or cannot be had.
async fn shareable(shared: &Shared, row: &RecordRow) -> Result<Option<TierRecord>> {
    let record = row.id;
    let mut refs = Vec::with_capacity(row.outputs.len());
    for id in &row.outputs {
        let Some(output) = shared.store.get(id)? else { return Ok(None) };
        refs.push(output);
    }
    // An image that nobody has unpacked: everybody can have it from where it is.
    if row.inputs.is_empty() && refs.iter().any(rbuild_store::Ref::is_lazy) {
        return Ok(Some(TierRecord { record, outputs: Vec::new() }));
    }
    let options = CompressionOptions::new(Compression::Zstd);
    let mut outputs = Vec::with_capacity(refs.len());
    for reference in &refs {
        let mut layers = Vec::new();
        for blob in reference.layers(&options, false, None).await? {
            if !blob.is_local
                && !shared.place.has(&blob.desc).await?
                && let Err(error) = reference.fetch_blob(&blob, None).await
            {
                tracing::debug!(%error, "a layer cannot be had for the shared cache");
                return Ok(None);
            }
            if !shared.knows(&blob.desc.digest) {
                shared.place.put(&blob.desc, shared.store.content(), None).await?;
                shared.note(blob.desc.digest);
            }
            let Some(layer) = TierLayer::of(&blob.desc, reference.created_ms()) else { return Ok(None) };
            layers.push(layer);
        }
        outputs.push(layers);
    }
    Ok(Some(TierRecord { record, outputs }))
}
