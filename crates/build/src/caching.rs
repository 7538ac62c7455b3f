//! Caches elsewhere in the course of one build: imports begin with it, exports end it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use parking_lot::Mutex;
use rbuild_cache::{
    CacheExport, CacheImport, Caches, Client, INLINE_KEY, Known, LocalCache, MountCaches, RemoteCache, Target,
};
use rbuild_digest::Digest;
use rbuild_exporter::{ExportError, InlineCache};
use rbuild_frontend::{BuildError, ErrorCode, Fault};
use rbuild_progress::{Progress, VertexInfo};
use rbuild_solver::CacheStore;
use rbuild_store::{LayerBlob, Ref};
use rbuild_worker::MountSource;

use crate::request::BuildRequest;

/// Caches of one build in one direction. Each costs a connection and a document in memory.
const MAX_CACHES: usize = 32;
/// How a Dockerfile's user asks for cache in the image.
const INLINE_OPTION: &str = "build-arg:BUILDKIT_INLINE_CACHE";

/// The caches of one build.
#[derive(Debug)]
pub(crate) struct BuildCaches {
    caches: Caches,
    client: Client,
    /// What is looked into, and what was asked for: a frontend may ask again for what the client has asked for.
    imported: Mutex<Imported>,
    exports: Vec<Arc<CacheExport>>,
}

/// A cache that makes no sense.
fn refused(text: String) -> BuildError {
    BuildError::invalid(text).fault(Fault::Cache)
}

#[derive(Debug, Default)]
struct Imported {
    /// By digest: attributes may hold keys of buckets.
    asked: HashSet<Digest>,
    caches: Vec<Arc<RemoteCache>>,
}

impl BuildCaches {
    /// Checks what is asked for and starts the imports. An import that makes no sense is a step that failed, as is
    /// one that cannot be reached; an export that makes no sense must not cost a build.
    pub(crate) fn open(
        caches: Caches,
        client: Client,
        request: &BuildRequest,
        progress: &Progress,
    ) -> Result<Self, BuildError> {
        if request.cache_imports.len().max(request.cache_exports.len()) > MAX_CACHES {
            return Err(refused(format!("at most {MAX_CACHES} caches to import and to export")));
        }
        let parse = |(kind, attrs): &(String, BTreeMap<String, String>)| CacheExport::parse(kind, attrs);
        let mut exports: Vec<CacheExport> = request
            .cache_exports
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map_err(|error| refused(error.to_string()))?;
        let inline = request.what.options().and_then(|options| options.get(INLINE_OPTION));
        if inline.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
            && !exports.iter().any(CacheExport::is_inline)
        {
            let inline = CacheExport::parse("inline", &BTreeMap::new());
            exports.push(inline.map_err(|error| refused(error.to_string()))?);
        }
        let exports = exports.into_iter().map(Arc::new).collect();
        let opened = Self { caches, client, imported: Mutex::default(), exports };
        for (kind, attrs) in &request.cache_imports {
            opened.import(kind, attrs, progress)?;
        }
        Ok(opened)
    }

    /// Starts an import, unless it was asked for before.
    pub(crate) fn import(
        &self,
        kind: &str,
        attrs: &BTreeMap<String, String>,
        progress: &Progress,
    ) -> Result<Option<Arc<RemoteCache>>, BuildError> {
        let mut imported = self.imported.lock();
        if !imported.asked.insert(Digest::of(format!("{kind:?} {attrs:?}"))) {
            return Ok(None);
        }
        if imported.asked.len() > MAX_CACHES {
            return Err(BuildError::invalid(format!("at most {MAX_CACHES} caches to import")));
        }
        let import = match CacheImport::parse(kind, attrs) {
            Ok(import) => import,
            Err(error) => {
                let step =
                    progress.vertex(VertexInfo::synthetic(rbuild_cache::import_step_name(kind, attrs)));
                step.started();
                step.completed(Some(error.to_string()));
                return Ok(None);
            }
        };
        let step = progress.vertex(VertexInfo::synthetic(import.step_name()));
        let cache = self.caches.import(import, &self.client, step);
        imported.caches.push(cache.clone());
        Ok(Some(cache))
    }

    /// What the build's job looks into besides this daemon's records.
    pub(crate) fn stores(&self) -> Vec<Arc<dyn CacheStore<Ref>>> {
        let imported = self.imported.lock();
        imported.caches.iter().map(|cache| cache.clone() as Arc<dyn CacheStore<Ref>>).collect()
    }

    /// Cache mounts that imports were asked for.
    pub(crate) fn mounts(&self, progress: &Progress) -> Option<Arc<dyn MountSource>> {
        let mounts =
            MountCaches::new(self.caches.store.clone(), &self.imported.lock().caches, progress.clone())?;
        Some(Arc::new(Mounts(mounts)))
    }

    /// Whether anything is exported, so that the build's graph has to be looked at again.
    pub(crate) fn has_exports(&self) -> bool {
        !self.exports.is_empty()
    }

    /// What exports are made from.
    pub(crate) fn known(&self, solutions: Vec<rbuild_cache::Solution>) -> Known {
        let local = LocalCache::new(self.caches.store.clone());
        Known { solutions, local, imported: self.imported.lock().caches.clone() }
    }

    /// What exporters of images ask for their cache.
    pub(crate) fn inline(&self, known: &Known) -> Option<Arc<dyn InlineCache>> {
        let wanted = self.exports.iter().any(|export| export.is_inline());
        wanted.then(|| -> Arc<dyn InlineCache> { Arc::new(Inline(known.clone())) })
    }

    /// Exports all caches, side by side. Gives back what the client is told, and leaves to `later` what the build's result
    /// does not wait for.
    pub(crate) async fn export(
        &self,
        known: &Known,
        progress: &Progress,
        later: &impl Fn(Later),
    ) -> Result<BTreeMap<String, String>, BuildError> {
        let exports = self.exports.iter().filter(|export| !export.is_inline()).map(|export| async move {
            let step = progress.vertex(VertexInfo::synthetic(export.step_name()));
            step.started();
            let done = async {
                let target = export.open(&self.caches, &self.client).await?;
                if !export.is_background() {
                    return export.run(&self.caches, &target, known, &step).await;
                }
                step.status("goes on in the background", "").done();
                let (export, caches, known) = (export.clone(), self.caches.clone(), known.clone());
                later(Box::pin(async move { in_background(&export, &caches, &target, &known).await }));
                Ok(BTreeMap::new())
            };
            let done = done.await;
            step.completed(done.as_ref().err().map(ToString::to_string));
            match done {
                Ok(response) => Ok(response),
                Err(error) if export.ignores_errors() => {
                    tracing::debug!(%error, "a failed cache export is ignored, as asked for");
                    Ok(BTreeMap::new())
                }
                Err(error) => {
                    Err(BuildError::new(ErrorCode::Unknown, format!("{}: {error}", export.step_name())))
                }
            }
        });
        let done = futures::future::try_join_all(exports).await?;
        Ok(done.into_iter().flatten().collect())
    }
}

/// Work for after the build.
pub(crate) type Later = futures::future::BoxFuture<'static, ()>;

/// An export that no build waits for.
async fn in_background(export: &CacheExport, caches: &Caches, target: &Target, known: &Known) {
    // Nobody watches; the log says how it went.
    let progress = Progress::memory();
    let step = progress.vertex(VertexInfo::synthetic(export.step_name()));
    match export.run(caches, target, known, &step).await {
        Ok(_) => tracing::info!(export = export.step_name(), "cache exported in the background"),
        Err(error) => {
            tracing::warn!(export = export.step_name(), %error, "a cache export in the background failed")
        }
    }
}

#[derive(Debug)]
struct Mounts(MountCaches);

#[async_trait]
impl MountSource for Mounts {
    async fn prepare(&self, id: &str, base: Option<&Ref>) {
        self.0.prepare(id, base).await;
    }
}

#[derive(Debug)]
struct Inline(Known);

#[async_trait]
impl InlineCache for Inline {
    async fn field(&self, reference: &Ref, layers: &[LayerBlob]) -> Result<(String, String), ExportError> {
        let document = rbuild_cache::inline(&self.0, reference, layers).await;
        let document = document.map_err(|error| ExportError::Result(format!("inline cache: {error}")))?;
        Ok((INLINE_KEY.to_owned(), base64::engine::general_purpose::STANDARD.encode(document)))
    }
}
