//! Where results are remembered: the [`CacheStore`] trait, the values that cross it, and a store in memory.
//!
//! A *record* is one finished execution: its outputs and an id that is its identity. Several keys lead to it. Stores
//! are asked in order; the first one is local and is the one that is written to. A record found in a later
//! store is adopted by the first one under the same id.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rbuild_digest::{Digest, random_id};

use crate::key::Level;

/// The identity of a record: two results with one id are interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub Digest);

impl RecordId {
    /// An id that was never used before.
    pub fn fresh() -> Self {
        Self(Digest::of(random_id()))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One look-up: the key, and what it was made of for stores that keep keys in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The key. Framed and typed: distinct parts give distinct keys.
    pub key: Digest,
    /// Which of the three keys it is.
    pub level: Level,
    /// [`crate::CacheMap::digest`] of the op.
    pub op: Digest,
    /// The inputs, in order.
    pub inputs: Vec<QueryInput>,
    /// [`crate::CacheMap::aliases`] of the op. Not part of the key.
    pub aliases: Vec<Digest>,
    /// How many outputs a record must have to answer. Not part of the key: the op decides it.
    pub outputs: usize,
}

/// An input as a key sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryInput {
    /// Virtual key (level 0), record id (levels 1 and 2).
    pub identity: Digest,
    /// Which output of the input vertex.
    pub output: usize,
    /// The part that is used.
    pub selector: Option<Digest>,
    /// Content digest, at level 2.
    pub content: Option<Digest>,
}

/// A finished execution that a store knows.
#[derive(Debug, Clone)]
pub struct Record<T> {
    /// Its identity.
    pub id: RecordId,
    /// One value per output, usually lazy.
    pub outputs: Vec<T>,
}

/// A finished execution to be remembered.
#[derive(Debug)]
pub struct NewRecord<'a, T> {
    /// The identity to keep, for a record adopted from another store; `None`: the store makes a fresh one.
    pub id: Option<RecordId>,
    /// All keys that lead to it. They replace older meanings of the same keys.
    pub keys: &'a [Digest],
    /// Name of the vertex, for people.
    pub name: &'a str,
    /// Digest of the vertex.
    pub vertex: Digest,
    /// [`crate::CacheMap::digest`] of the op.
    pub op: Digest,
    /// What it was made from.
    pub inputs: &'a [RecordInput],
    /// Its outputs.
    pub outputs: &'a [T],
}

/// An input of a record: what cache export and explain need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInput {
    /// The record that gave it; `None` if that result has no lasting identity (a local source).
    pub record: Option<RecordId>,
    /// Which output.
    pub output: usize,
    /// The part that is used.
    pub selector: Option<Digest>,
    /// Its content digest, if one was computed.
    pub content: Option<Digest>,
}

/// A memory of results. Failing look-ups count as misses and are logged by the solver.
#[async_trait]
pub trait CacheStore<T>: Send + Sync + fmt::Debug {
    /// The record that `query.key` leads to.
    async fn lookup(&self, query: &Query) -> Result<Option<Record<T>>, CacheError>;

    /// Remembers a record under all its keys at once and returns its id.
    async fn commit(&self, record: NewRecord<'_, T>) -> Result<RecordId, CacheError>;

    /// Lets further keys lead to a record that the store has.
    async fn alias(&self, record: RecordId, keys: &[Digest]) -> Result<(), CacheError>;

    /// Told of every key of a job before it is asked for, inputs first, looked up here or not. For stores that find
    /// records by what keys are made of, as their own names for them are others. Must return at once.
    fn define(&self, _query: &Query) {}

    /// Whether the store knows this key, though it may have no result for it. What stands on such a key may be found all
    /// the same, so the vertex is worked on only if something needs its outputs.
    async fn recognises(&self, _query: &Query) -> bool {
        false
    }

    /// Told which defined keys lead to the record (or passing result) called `identity`. Must return at once.
    fn identify(&self, _identity: &Digest, _keys: &[Digest]) {}
}

/// A store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cache store: {0}")]
pub struct CacheError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl CacheError {
    /// Wraps the store's own error.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Asks the stores in order. What a further store has is adopted by the first; `aliases` lead to it from now on.
pub(crate) async fn lookup<T: Clone + Send + Sync>(
    stores: &[Arc<dyn CacheStore<T>>],
    query: &Query,
    aliases: &[Digest],
) -> Option<Record<T>> {
    for (index, store) in stores.iter().enumerate() {
        let record = match store.lookup(query).await {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(key = %query.key, %error, "cache look-up failed, taken as a miss");
                continue;
            }
        };
        let noted = if index == 0 {
            if aliases.is_empty() { Ok(()) } else { stores[0].alias(record.id, aliases).await }
        } else {
            adopt(&stores[0], query, aliases, &record).await
        };
        if let Err(error) = noted {
            tracing::warn!(key = %query.key, %error, "cache hit could not be noted under its other keys");
        }
        return Some(record);
    }
    None
}

async fn adopt<T: Clone + Send + Sync>(
    local: &Arc<dyn CacheStore<T>>,
    query: &Query,
    aliases: &[Digest],
    record: &Record<T>,
) -> Result<(), CacheError> {
    let mut keys = vec![query.key];
    keys.extend(aliases);
    // A virtual key says nothing of the records beneath.
    let inputs = query.inputs.iter().map(|input| RecordInput {
        record: (query.level != Level::Virtual).then_some(RecordId(input.identity)),
        output: input.output,
        selector: input.selector,
        content: input.content,
    });
    let inputs: Vec<_> = inputs.collect();
    let new = NewRecord {
        id: Some(record.id),
        keys: &keys,
        name: "",
        vertex: query.op,
        op: query.op,
        inputs: &inputs,
        outputs: &record.outputs,
    };
    local.commit(new).await.map(|_| ())
}

/// A store that forgets when it is dropped: for tests and as a reference for others.
#[derive(Debug)]
pub struct MemoryCache<T> {
    inner: Mutex<Memory<T>>,
}

#[derive(Debug)]
struct Memory<T> {
    keys: HashMap<Digest, RecordId>,
    records: HashMap<RecordId, Arc<[T]>>,
}

impl<T> Default for MemoryCache<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(Memory { keys: HashMap::new(), records: HashMap::new() }) }
    }
}

impl<T> MemoryCache<T> {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.inner.lock().records.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait]
impl<T: Clone + Send + Sync + fmt::Debug> CacheStore<T> for MemoryCache<T> {
    async fn lookup(&self, query: &Query) -> Result<Option<Record<T>>, CacheError> {
        let inner = self.inner.lock();
        let Some(id) = inner.keys.get(&query.key) else { return Ok(None) };
        Ok(inner.records.get(id).map(|outputs| Record { id: *id, outputs: outputs.to_vec() }))
    }

    async fn commit(&self, record: NewRecord<'_, T>) -> Result<RecordId, CacheError> {
        let id = record.id.unwrap_or_else(RecordId::fresh);
        let mut inner = self.inner.lock();
        inner.records.insert(id, record.outputs.into());
        inner.keys.extend(record.keys.iter().map(|key| (*key, id)));
        Ok(id)
    }

    async fn alias(&self, record: RecordId, keys: &[Digest]) -> Result<(), CacheError> {
        self.inner.lock().keys.extend(keys.iter().map(|key| (*key, record)));
        Ok(())
    }
}
