use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_solver::{CacheError, CacheStore, NewRecord, Query, Record, RecordId};
use rbuild_store::{RecordInputRow, RecordRow, Ref, Store};

/// The cache on this machine: records in the store's database.
#[derive(Debug, Clone)]
pub struct LocalCache {
    store: Store,
}

impl LocalCache {
    /// The cache in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The store behind it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The record that a key leads to, if all its outputs can be had.
    pub(crate) fn find(&self, key: &Digest) -> rbuild_store::Result<Option<Record<Ref>>> {
        let Some(row) = self.store.record_by_key(key)? else { return Ok(None) };
        let mut outputs = Vec::with_capacity(row.outputs.len());
        for id in &row.outputs {
            match self.store.get(id)? {
                // A lazy layer of which nobody knows any more where it came from: its source is asked again, and
                // makes the same ref of it, with a place to fetch it from.
                Some(output) if output.is_loadable() => {
                    output.mark_used();
                    outputs.push(output);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(Record { id: RecordId(row.id), outputs }))
    }
}

#[async_trait]
impl CacheStore<Ref> for LocalCache {
    async fn lookup(&self, query: &Query) -> Result<Option<Record<Ref>>, CacheError> {
        self.find(&query.key).map_err(CacheError::new)
    }

    async fn commit(&self, record: NewRecord<'_, Ref>) -> Result<RecordId, CacheError> {
        let inputs = record.inputs.iter().map(|input| RecordInputRow {
            record: input.record.map(|id| id.0),
            output: u32::try_from(input.output).unwrap_or(u32::MAX),
            selector: input.selector,
            content: input.content,
        });
        let row = RecordRow {
            id: record.id.unwrap_or_else(RecordId::fresh).0,
            vertex: record.vertex,
            op: record.op,
            name: record.name.to_owned(),
            created_ms: 0,
            inputs: inputs.collect(),
            outputs: record.outputs.iter().map(Ref::id).collect(),
        };
        let id = self.store.put_record(row, record.outputs, record.keys, record.id.is_some()).await;
        id.map(RecordId).map_err(CacheError::new)
    }

    async fn alias(&self, record: RecordId, keys: &[Digest]) -> Result<(), CacheError> {
        self.store.alias_record(&record.0, keys).await.map_err(CacheError::new)
    }
}

#[cfg(test)]
mod tests;
