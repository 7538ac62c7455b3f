//! Keys: what a result is found by, and how that is told to a person.
//!
//! A key is made by writing a *manifest*: typed, framed fields in a fixed order. The same writer feeds the hasher
//! and the text form ([`Query`]'s `Display`), so an explanation cannot disagree with the key.
//!
//! - [`Level::Virtual`] (K0): the op and the virtual keys of its inputs; from definitions alone.
//! - [`Level::Record`] (K1): the op and the identities of the records that its inputs are.
//! - [`Level::Content`] (K2): as K1, but inputs that the op can name by content are named so.

use std::fmt;
use std::sync::Arc;

use rbuild_digest::{Digest, Hasher};

use crate::cache::{Query, QueryInput, Record, RecordId, RecordInput};
use crate::op::CacheMap;

/// Changing what a manifest holds needs a new value here, or old records answer new questions.
const FORMAT: &str = "rbuild.key.v1";

/// What a key was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// K0: definitions alone.
    Virtual,
    /// K1: the records of the inputs.
    Record,
    /// K2: the content of some inputs, the records of the others.
    Content,
}

/// The virtual key of a vertex. It does not exist above a volatile op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Virtual {
    pub(crate) key: Digest,
    /// Whether it may be looked up: not if the vertex or something beneath it ignores the cache.
    pub(crate) findable: bool,
}

/// Which result this is, whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A record; equal ids are equal results, today and later.
    Record(RecordId),
    /// A result that no store has; tells apart results of this process only.
    Passing(Digest),
}

impl Identity {
    pub(crate) fn digest(self) -> Digest {
        match self {
            Self::Record(id) => id.0,
            Self::Passing(digest) => digest,
        }
    }

    pub(crate) fn record(self) -> Option<RecordId> {
        match self {
            Self::Record(id) => Some(id),
            Self::Passing(_) => None,
        }
    }
}

/// A result that is known, though maybe not loaded.
#[derive(Debug)]
pub(crate) struct Known<T> {
    pub(crate) outputs: Arc<[T]>,
    pub(crate) identity: Identity,
}

impl<T> Known<T> {
    /// The result that a record is.
    pub(crate) fn of(record: Record<T>) -> Self {
        Self { outputs: record.outputs.into(), identity: Identity::Record(record.id) }
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { outputs: self.outputs.clone(), identity: self.identity }
    }
}

/// Receives the fields of a key in order.
trait Manifest {
    fn field(&mut self, name: &str, value: &dyn fmt::Display, bytes: &[u8]);
}

impl Manifest for Hasher {
    fn field(&mut self, name: &str, _value: &dyn fmt::Display, bytes: &[u8]) {
        Hasher::field(self, name);
        Hasher::field(self, bytes);
    }
}

struct Text<'a, 'b>(&'a mut fmt::Formatter<'b>, fmt::Result);

impl Manifest for Text<'_, '_> {
    fn field(&mut self, name: &str, value: &dyn fmt::Display, _bytes: &[u8]) {
        if self.1.is_ok() {
            self.1 = writeln!(self.0, "{name}: {value}");
        }
    }
}

fn write(manifest: &mut impl Manifest, level: Level, op: &Digest, inputs: &[QueryInput]) {
    manifest.field("format", &FORMAT, FORMAT.as_bytes());
    let level = match level {
        Level::Virtual => "virtual",
        Level::Record => "record",
        Level::Content => "content",
    };
    manifest.field("level", &level, level.as_bytes());
    manifest.field("op", op, op.as_bytes());
    for input in inputs {
        manifest.field("output", &input.output, &(input.output as u64).to_le_bytes());
        if let Some(selector) = &input.selector {
            manifest.field("selector", selector, selector.as_bytes());
        }
        match &input.content {
            Some(content) => manifest.field("content", content, content.as_bytes()),
            None => manifest.field("identity", &input.identity, input.identity.as_bytes()),
        }
    }
}

impl Query {
    pub(crate) fn new(level: Level, op: Digest, inputs: Vec<QueryInput>) -> Self {
        let mut hasher = Hasher::new();
        write(&mut hasher, level, &op, &inputs);
        Self { key: hasher.finish(), level, op, inputs, aliases: Vec::new(), outputs: 1 }
    }

    /// The same question about an op of other names and with so many outputs.
    pub(crate) fn of_op(mut self, map: &CacheMap, outputs: usize) -> Self {
        self.aliases.clone_from(&map.aliases);
        self.outputs = outputs;
        self
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text(f, Ok(()));
        write(&mut text, self.level, &self.op, &self.inputs);
        text.1
    }
}

/// K0 of a vertex, from its map and the virtual keys of its inputs (`None` above a volatile op).
pub(crate) fn virtual_query(
    map: &CacheMap,
    inputs: impl Iterator<Item = (Option<Virtual>, usize)>,
    ignore_cache: bool,
) -> Option<(Query, Virtual)> {
    if map.volatile {
        return None;
    }
    let mut findable = !ignore_cache;
    let mut parts = Vec::new();
    for (index, (key, output)) in inputs.enumerate() {
        let key = key?;
        findable &= key.findable;
        parts.push(QueryInput {
            identity: key.key,
            output,
            selector: map.input(index).selector,
            content: None,
        });
    }
    let query = Query::new(Level::Virtual, map.digest, parts);
    let key = Virtual { key: query.key, findable };
    Some((query, key))
}

/// The resolved keys of a vertex whose inputs are known.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) query: Query,
    /// Every input has an identity that lasts, so the key may be stored.
    pub(crate) lasting: bool,
}

/// K1, or K2 once `contents` has an entry.
pub(crate) fn resolved(
    map: &CacheMap,
    inputs: &[(Identity, usize)],
    contents: &[Option<Digest>],
) -> Resolved {
    let mut lasting = true;
    let parts = inputs.iter().enumerate().map(|(index, (identity, output))| {
        let content = contents.get(index).copied().flatten();
        lasting &= content.is_some() || identity.record().is_some();
        QueryInput {
            identity: identity.digest(),
            output: *output,
            selector: map.input(index).selector,
            content,
        }
    });
    let parts = parts.collect();
    let level = if contents.iter().any(Option::is_some) { Level::Content } else { Level::Record };
    Resolved { query: Query::new(level, map.digest, parts), lasting }
}

/// What a record remembers of its inputs.
pub(crate) fn record_inputs(
    map: &CacheMap,
    inputs: &[(Identity, usize)],
    contents: &[Option<Digest>],
) -> Vec<RecordInput> {
    let part = |(index, (identity, output)): (usize, &(Identity, usize))| RecordInput {
        record: identity.record(),
        output: *output,
        selector: map.input(index).selector,
        content: contents.get(index).copied().flatten(),
    };
    inputs.iter().enumerate().map(part).collect()
}

/// The flight of a volatile vertex: its own digest, in its own job if it is private.
pub(crate) fn volatile_key(vertex: &Digest, job: Option<u64>) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("rbuild.volatile").field(vertex.as_bytes());
    if let Some(job) = job {
        hasher.field(job.to_le_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, output: usize) -> (Identity, usize) {
        (Identity::Record(RecordId(Digest::of(name))), output)
    }

    #[test]
    fn every_part_counts() {
        let map = CacheMap::new(Digest::of("op"));
        let mut selected = map.clone();
        selected.inputs = vec![crate::InputKey { selector: Some(Digest::of("x")), content: false }];
        let content = [Some(Digest::of("a"))];
        let keys = [
            resolved(&map, &[], &[]).query.key,
            resolved(&map, &[input("a", 0)], &[]).query.key,
            resolved(&map, &[input("a", 1)], &[]).query.key,
            resolved(&map, &[input("b", 0)], &[]).query.key,
            resolved(&map, &[input("a", 0), input("b", 0)], &[]).query.key,
            resolved(&map, &[input("b", 0), input("a", 0)], &[]).query.key,
            resolved(&selected, &[input("a", 0)], &[]).query.key,
            resolved(&map, &[input("a", 0)], &content).query.key,
            virtual_query(&map, [].into_iter(), false).unwrap().0.key,
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn content_hides_the_identity() {
        let map = CacheMap::new(Digest::of("op"));
        let content = [Some(Digest::of("c"))];
        let a = resolved(&map, &[(Identity::Passing(Digest::of("a")), 0)], &content);
        let b = resolved(&map, &[input("b", 0)], &content);
        assert_eq!(a.query.key, b.query.key);
        assert!(a.lasting && b.lasting);
        assert!(!resolved(&map, &[(Identity::Passing(Digest::of("a")), 0)], &[]).lasting);
    }

    #[test]
    fn explanation_names_the_parts() {
        let map = CacheMap::new(Digest::of("op"));
        let text = resolved(&map, &[input("a", 3)], &[]).query.to_string();
        assert!(text.contains("level: record") && text.contains("output: 3"), "{text}");
    }
}
