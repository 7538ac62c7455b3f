use std::sync::Arc;

use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_solver::{
    CacheError as StoreFailure, CacheStore, Level, NewRecord, Query, Record, RecordId, RecordInput,
};
use rbuild_store::{LayerSource, RecordType, Ref};

use super::Tier;
use super::record::{TierLayer, TierRecord};
use crate::LocalCache;
use crate::error::Result;

/// The cache on this machine over the one that daemons share.
#[derive(Debug)]
pub struct TieredCache {
    local: LocalCache,
    tier: Arc<Tier>,
}

impl TieredCache {
    /// `local` is asked first, and written first.
    pub fn new(local: LocalCache, tier: Arc<Tier>) -> Self {
        Self { local, tier }
    }

    /// The shared record of a key, taken into this machine's cache.
    async fn fetched(&self, query: &Query) -> Option<Record<Ref>> {
        let found = self.tier.record(&query.key).await?;
        if found.outputs.is_empty() || found.outputs.len() < query.outputs {
            return None;
        }
        let blobs: Vec<_> = found.outputs.iter().flatten().map(TierLayer::desc).collect();
        if !self.tier.has_all(blobs.iter()).await {
            return None;
        }
        match self.adopt(query, &found).await {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(%error, key = %query.key, "a record of the shared cache cannot be used");
                None
            }
        }
    }

    async fn adopt(&self, query: &Query, found: &TierRecord) -> Result<Record<Ref>, StoreFailure> {
        let mut outputs = Vec::with_capacity(found.outputs.len());
        for layers in &found.outputs {
            outputs.push(self.output(layers).await.map_err(StoreFailure::new)?);
        }
        let id = RecordId(found.record);
        let inputs: Vec<RecordInput> = query
            .inputs
            .iter()
            .map(|input| RecordInput {
                // A virtual key says nothing of the records beneath.
                record: (query.level != Level::Virtual).then_some(RecordId(input.identity)),
                output: input.output,
                selector: input.selector,
                content: input.content,
            })
            .collect();
        let new = NewRecord {
            id: Some(id),
            keys: &[query.key],
            name: "",
            vertex: query.op,
            op: query.op,
            inputs: &inputs,
            outputs: &outputs,
        };
        self.local.commit(new).await?;
        Ok(Record { id, outputs })
    }

    async fn output(&self, layers: &[TierLayer]) -> Result<Ref> {
        let store = self.local.store();
        let place = &self.tier.shared.place;
        let mut parent: Option<Ref> = None;
        for layer in layers {
            let source = LayerSource {
                desc: layer.desc(),
                diff_id: layer.diff_id,
                provider: place.provider(),
                // Not the name of an image: after a restart the tier is asked again.
                origin: format!("cache:{}", place.name()),
                created_ms: layer.created_ms,
                description: "from the shared cache".to_owned(),
                record_type: RecordType::Regular,
                progress: None,
            };
            parent = Some(store.layer(parent.as_ref(), source).await?);
        }
        match parent {
            Some(top) => Ok(top),
            None => Ok(store.scratch().await?),
        }
    }
}

/// The identity of what is made of nothing: sources. Its files are the same wherever they come from, so it is made of what
/// names it and not drawn: daemons that meet a source at the same time, or when the tier does not answer, would else find
/// nothing of what stands on the other's.
fn common_identity(record: &NewRecord<'_, Ref>) -> Option<RecordId> {
    record.inputs.is_empty().then(|| RecordId(Digest::of(format!("source {}", record.op))))
}

#[async_trait]
impl CacheStore<Ref> for TieredCache {
    async fn lookup(&self, query: &Query) -> Result<Option<Record<Ref>>, StoreFailure> {
        match self.local.lookup(query).await? {
            Some(record) => Ok(Some(record)),
            None => Ok(self.fetched(query).await),
        }
    }

    async fn commit(&self, mut record: NewRecord<'_, Ref>) -> Result<RecordId, StoreFailure> {
        // Found in an imported cache: its files may be had on behalf of one client only.
        let is_foreign = record.id.is_some();
        record.id = record.id.or_else(|| common_identity(&record));
        let keys = record.keys;
        let id = self.local.commit(record).await?;
        if !is_foreign {
            self.tier.write(id.0, keys);
        }
        Ok(id)
    }

    async fn alias(&self, record: RecordId, keys: &[Digest]) -> Result<(), StoreFailure> {
        self.local.alias(record, keys).await?;
        self.tier.write(record.0, keys);
        Ok(())
    }
}
