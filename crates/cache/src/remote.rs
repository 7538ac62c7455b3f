//! A cache elsewhere, as the solver asks it: [`RemoteCache`].
//!
//! The solver finds records by its own keys, a remote cache by links from record to record. Both describe the same
//! graph: every key that a build asks for was defined before ([`CacheStore::define`]), and every result of the build was
//! said to be what some keys mean ([`CacheStore::identify`]). So for a key the remote's records are found by walking
//! its definition down to what is known already. Nothing recurses: keys are looked at inputs first.
//!
//! The documents are fetched in a task of the cache's own, beside the build; a look-up that comes before they are
//! here waits. A hit gives lazy refs, after the place has been asked whether it still has the blobs: one that vanished
//! is a miss, and the step runs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, Provider};
use rbuild_progress::Reporter;
use rbuild_solver::{CacheError as StoreFailure, CacheStore, NewRecord, Query, Record, RecordId};
use rbuild_store::{LayerSource, RecordType, Ref, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backend::Place;
use crate::error::{CacheError, Result};
use crate::format::{content_key, output_key};
use crate::index::{Index, IndexLayer, RecordIx};
use crate::load;
use crate::mounts::{MountEntry, names};

/// Questions to a place at once: whether it still has a blob.
const PARALLEL: usize = 16;

/// A place that takes longer to say whether it has a blob is as good as none. As for connections.
const HAS_TIMEOUT: Duration = Duration::from_secs(10);

/// How the import stands.
#[derive(Debug, Clone)]
enum Import {
    Running,
    Done(Arc<Loaded>),
    /// The step says why.
    Failed,
}

/// What was imported, and from where.
#[derive(Debug)]
struct Loaded {
    index: Index,
    place: Arc<dyn Place>,
    provider: Arc<dyn Provider>,
    /// It did not answer once: it is not asked again by this build.
    dead: AtomicBool,
}

impl Loaded {
    /// Whether the place has a blob. A place that fails costs one wait, and is a miss from then on.
    async fn has(&self, desc: &Descriptor) -> bool {
        if self.dead.load(Ordering::Relaxed) {
            return false;
        }
        let answer = tokio::time::timeout(HAS_TIMEOUT, self.place.has(desc)).await;
        let error = match answer {
            Ok(Ok(has)) => return has,
            Ok(Err(error)) => error,
            Err(_) => CacheError::Slow { what: self.place.name().to_owned(), seconds: HAS_TIMEOUT.as_secs() },
        };
        if !self.dead.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, cache = self.place.name(), "an imported cache fails and is not asked again");
        }
        false
    }
}

/// What the build has said of its keys, and what was found out.
#[derive(Debug, Default)]
struct Names {
    /// By key.
    queries: HashMap<Digest, Arc<Query>>,
    /// By record of the build: keys that mean it.
    records: HashMap<Digest, Vec<Digest>>,
    /// By key or record and output: the index's records.
    known: HashMap<(Digest, usize), Arc<[RecordIx]>>,
    /// Identity of a record of the index in this daemon.
    ids: HashMap<RecordIx, RecordId>,
    /// Whether the place has a blob.
    present: HashMap<Digest, bool>,
}

/// One imported cache of one build.
#[derive(Debug)]
pub struct RemoteCache {
    store: Store,
    /// Cache mounts that the import was asked for.
    mounts: Vec<String>,
    state: watch::Receiver<Import>,
    names: Mutex<Names>,
    task: JoinHandle<()>,
}

impl Drop for RemoteCache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RemoteCache {
    /// Starts importing. `reporter` is the step that the user sees; a failure is told there and nowhere else.
    pub(crate) fn start<F>(store: Store, place: F, (mounts, reporter): (Vec<String>, Reporter)) -> Arc<Self>
    where
        F: Future<Output = Result<(Arc<dyn Place>, Arc<dyn Provider>)>> + Send + 'static,
    {
        let (sender, state) = watch::channel(Import::Running);
        let work = import(store.clone(), place, reporter, sender);
        // Owned by the value that is returned, which aborts it.
        let task = tokio::spawn(work);
        Arc::new(Self { store, mounts, state, names: Mutex::default(), task })
    }

    /// What was imported, once that is known. `None`: nothing.
    async fn loaded(&self) -> Option<Arc<Loaded>> {
        let mut state = self.state.clone();
        let done = state.wait_for(|state| !matches!(state, Import::Running)).await.ok()?.clone();
        match done {
            Import::Done(loaded) => Some(loaded),
            Import::Running | Import::Failed => None,
        }
    }

    /// Whether it was asked for cache mounts.
    pub(crate) fn has_mounts(&self) -> bool {
        !self.mounts.is_empty()
    }

    /// Whether it was asked for this cache mount.
    pub(crate) fn wants_mount(&self, id: &str) -> bool {
        self.mounts.iter().any(|wanted| names(wanted).iter().any(|name| name == id))
    }

    /// A cache mount, and where its blobs are. Waits for the import.
    pub(crate) async fn mount(
        &self,
        id: &str,
        platform: &str,
        over_base: bool,
    ) -> Option<(MountEntry, Arc<dyn Provider>)> {
        self.loaded().await?;
        self.mount_now(id, platform, over_base)
    }

    /// The same, if it is imported by now.
    pub(crate) fn mount_now(
        &self,
        id: &str,
        platform: &str,
        over_base: bool,
    ) -> Option<(MountEntry, Arc<dyn Provider>)> {
        let loaded = self.loaded_now()?;
        let entry = loaded.index.mount(id, platform, over_base)?.clone();
        Some((entry, loaded.provider.clone()))
    }

    /// What was imported by now.
    fn loaded_now(&self) -> Option<Arc<Loaded>> {
        match &*self.state.borrow() {
            Import::Done(loaded) => Some(loaded.clone()),
            Import::Running | Import::Failed => None,
        }
    }

    /// Content keys that this cache has for an input of what `name` (a key or a record of the build) means.
    pub(crate) fn contents(&self, name: &Digest, output: usize, input: usize) -> Vec<Digest> {
        let Some(loaded) = self.loaded_now() else { return Vec::new() };
        let records = self.names.lock().find(&loaded.index, *name, output);
        let contents = records.iter().flat_map(|record| loaded.index.contents(*record, input));
        contents.copied().collect()
    }

    /// The output of what `name` means, if this cache can give it.
    pub(crate) async fn output(&self, name: &Digest, output: usize) -> Option<(Ref, i64)> {
        let loaded = self.loaded_now()?;
        let records = self.names.lock().find(&loaded.index, *name, output);
        self.load(&loaded, &records).await.map(|(reference, _, created_ms)| (reference, created_ms))
    }

    /// The best of several records that can be had.
    async fn load(&self, loaded: &Loaded, records: &[RecordIx]) -> Option<(Ref, RecordIx, i64)> {
        for record in records.iter().filter(|record| loaded.index.has_result(**record)) {
            for (chain, created_ms) in loaded.index.results(*record) {
                if !self.all_present(loaded, &chain).await {
                    continue;
                }
                match self.refs(loaded, &chain).await {
                    Ok(Some(reference)) => return Some((reference, *record, created_ms)),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "a layer of an imported cache cannot be used"),
                }
            }
        }
        None
    }

    /// Asks the place for what is not here. An answer holds for the build.
    async fn all_present(&self, loaded: &Loaded, chain: &[&IndexLayer]) -> bool {
        let unknown = |layer: &&&IndexLayer| !self.names.lock().present.contains_key(&layer.desc.digest);
        let todo: Vec<Descriptor> = chain.iter().filter(unknown).map(|layer| layer.desc.clone()).collect();
        let asked = todo.into_iter().map(|desc| async move {
            let present = match self.is_here(desc.digest).await {
                true => true,
                false => loaded.has(&desc).await,
            };
            (desc.digest, present)
        });
        let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(PARALLEL).collect().await;
        let mut names = self.names.lock();
        names.present.extend(answers);
        chain.iter().all(|layer| names.present.get(&layer.desc.digest) == Some(&true))
    }

    async fn is_here(&self, digest: Digest) -> bool {
        let content = self.store.content().clone();
        tokio::task::spawn_blocking(move || content.has(&digest).unwrap_or(false)).await.unwrap_or(false)
    }

    async fn refs(&self, loaded: &Loaded, chain: &[&IndexLayer]) -> Result<Option<Ref>> {
        let mut parent: Option<Ref> = None;
        for layer in chain {
            let source = LayerSource {
                desc: layer.desc.clone(),
                diff_id: layer.diff_id,
                provider: loaded.provider.clone(),
                // Not the name of an image: after a restart the cache has to be imported again.
                origin: format!("cache:{}", loaded.place.name()),
                created_ms: layer.created_ms,
                description: format!("imported from cache {}", loaded.place.name()),
                record_type: RecordType::Regular,
                progress: None,
            };
            parent = Some(self.store.layer(parent.as_ref(), source).await?);
        }
        Ok(parent)
    }

    async fn find(&self, query: &Query) -> Option<Record<Ref>> {
        let loaded = self.loaded().await?;
        let mut outputs = Vec::with_capacity(query.outputs);
        let mut first = None;
        for output in 0..query.outputs {
            let records = self.names.lock().find(&loaded.index, query.key, output);
            if records.is_empty() {
                return None;
            }
            let (reference, record, _) = self.load(&loaded, &records).await?;
            first.get_or_insert(record);
            outputs.push(reference);
        }
        let id = *self.names.lock().ids.entry(first?).or_insert_with(RecordId::fresh);
        Some(Record { id, outputs })
    }
}

/// The import's step. A build that needed nothing of it may be over first, which is no failure.
struct Step(Option<Reporter>);

impl Step {
    fn warn(&self, warning: rbuild_progress::Warning) {
        if let Some(reporter) = &self.0 {
            reporter.warn(warning);
        }
    }

    fn end(mut self, error: Option<String>) {
        if let Some(reporter) = self.0.take() {
            reporter.completed(error);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(reporter) = self.0.take() {
            reporter.status("not needed", "").done();
            reporter.completed(None);
        }
    }
}

/// Fetches the documents and tells how that went.
async fn import<F>(store: Store, place: F, reporter: Reporter, sender: watch::Sender<Import>)
where
    F: Future<Output = Result<(Arc<dyn Place>, Arc<dyn Provider>)>>,
{
    reporter.started();
    let step = Step(Some(reporter));
    let read = async {
        let (place, provider) = place.await?;
        let index = load::load(&*place).await?;
        Ok::<_, CacheError>((place, provider, index))
    };
    let result = match read.await {
        Ok((place, provider, index)) => {
            store.offer(index.blobs(), &provider);
            if index.broken() > 0 {
                let text =
                    format!("{} entries of the cache do not fit together and are ignored", index.broken());
                tracing::warn!(cache = place.name(), broken = index.broken(), "imported cache is damaged");
                step.warn(rbuild_progress::Warning { level: 1, short: text, ..Default::default() });
            }
            tracing::debug!(cache = place.name(), records = index.len(), "cache imported");
            step.end(None);
            Import::Done(Arc::new(Loaded { index, place, provider, dead: AtomicBool::new(false) }))
        }
        Err(error) => {
            tracing::debug!(%error, "cache not imported");
            step.end(Some(format!("failed to import cache: {error}")));
            Import::Failed
        }
    };
    sender.send_replace(result);
}

impl Names {
    /// The index's records for an output of what `name` means.
    fn find(&mut self, index: &Index, name: Digest, output: usize) -> Arc<[RecordIx]> {
        let mut stack = vec![(name, output)];
        let mut entered = HashSet::new();
        while let Some(&question) = stack.last() {
            if self.known.contains_key(&question) {
                stack.pop();
                continue;
            }
            let below = self.below(question.0);
            let open: Vec<_> = below.into_iter().filter(|below| !self.known.contains_key(below)).collect();
            // A definition cannot stand on itself; if somebody says so, nothing is found there.
            if entered.insert(question) && !open.is_empty() {
                stack.extend(open.into_iter().filter(|below| !entered.contains(below)));
                continue;
            }
            let (name, output) = question;
            let found = self.answer(index, name, output);
            self.known.insert(question, found.into());
            stack.pop();
        }
        self.known.get(&(name, output)).cloned().unwrap_or_default()
    }

    /// The definitions of `name`: its own, if it is a key, and those of the keys that mean it.
    fn definitions(&self, name: Digest) -> impl Iterator<Item = &Arc<Query>> {
        let keys = self.records.get(&name).into_iter().flatten().chain(std::iter::once(&name));
        let keys: HashSet<Digest> = keys.copied().collect();
        keys.into_iter().filter_map(|key| self.queries.get(&key))
    }

    /// What has to be known before `name` is.
    fn below(&self, name: Digest) -> Vec<(Digest, usize)> {
        let inputs = self.definitions(name).flat_map(|query| &query.inputs);
        inputs.map(|input| (input.identity, input.output)).collect()
    }

    fn answer(&self, index: &Index, name: Digest, output: usize) -> Vec<RecordIx> {
        let found = self.definitions(name).flat_map(|query| self.matches(index, query, output));
        let mut found: Vec<RecordIx> = found.collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Records of the op that have something known at every input.
    fn matches(&self, index: &Index, query: &Query, output: usize) -> Vec<RecordIx> {
        let mut found: Vec<RecordIx> = Vec::new();
        for op in std::iter::once(&query.op).chain(&query.aliases) {
            let to = output_key(op, output);
            if query.inputs.is_empty() {
                found.extend(index.roots(&to));
                continue;
            }
            let mut reached: Option<HashSet<RecordIx>> = None;
            for (at, input) in query.inputs.iter().enumerate() {
                let by_content = input.content.iter().flat_map(|content| index.roots(&content_key(content)));
                let by_content = by_content.flat_map(|from| index.over(*from, at, None, to));
                let known = self.known.get(&(input.identity, input.output));
                let by_record = known.into_iter().flat_map(|records| records.iter());
                let by_record = by_record.flat_map(|from| index.over(*from, at, input.selector, to));
                let here: HashSet<RecordIx> = by_content.chain(by_record).copied().collect();
                let both = match reached {
                    None => here,
                    Some(before) => before.intersection(&here).copied().collect(),
                };
                if both.is_empty() {
                    reached = None;
                    break;
                }
                reached = Some(both);
            }
            found.extend(reached.into_iter().flatten());
        }
        found
    }
}

#[async_trait]
impl CacheStore<Ref> for RemoteCache {
    async fn lookup(&self, query: &Query) -> Result<Option<Record<Ref>>, StoreFailure> {
        Ok(self.find(query).await)
    }

    async fn commit(&self, _record: NewRecord<'_, Ref>) -> Result<RecordId, StoreFailure> {
        Err(StoreFailure::new(CacheError::Interrupted))
    }

    async fn alias(&self, _record: RecordId, _keys: &[Digest]) -> Result<(), StoreFailure> {
        Ok(())
    }

    async fn recognises(&self, query: &Query) -> bool {
        let Some(loaded) = self.loaded().await else { return false };
        // A source's record says nothing that its key does not; what is asked for here is what may stand on it.
        !query.inputs.is_empty()
            && (0..query.outputs)
                .all(|output| !self.names.lock().find(&loaded.index, query.key, output).is_empty())
    }

    fn define(&self, query: &Query) {
        let mut names = self.names.lock();
        names.queries.entry(query.key).or_insert_with(|| Arc::new(query.clone()));
    }

    fn identify(&self, identity: &Digest, keys: &[Digest]) {
        let mut names = self.names.lock();
        let known = names.records.entry(*identity).or_default();
        let before = known.len();
        for key in keys {
            if !known.contains(key) {
                known.push(*key);
            }
        }
        if known.len() != before {
            names.known.retain(|(name, _), _| name != identity);
        }
    }
}
