//! Snapshot → blob: makes the layer archives of a ref.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use futures::future::try_join_all;
use parking_lot::Mutex;
use rbuild_content::Ingest;
use rbuild_digest::{Digest, Hasher, random_id};
use rbuild_oci::{Compression, CompressionOptions, Descriptor, media};
use rbuild_snapshot::{DiffOptions, Differ, LayerForm};

use crate::error::{Result, StoreError};
use crate::id::RefId;
use crate::progress::LayerProgress;
use crate::refs::{Node, Ref, TreeGuard, chain_id};
use crate::rows::{BlobRow, Kind, put_ref};
use crate::store::{Store, blocking, cores};
use crate::unlazy::{Told, compress_error};

/// Bytes handed to the compressor at once.
const BUFFER: usize = 256 * 1024;

type Progress = Arc<dyn LayerProgress>;

/// One layer of a ref as a blob.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// The blob, with the annotations `containerd.io/uncompressed` and `buildkit/createdat`.
    pub desc: Descriptor,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// When the layer was made, milliseconds since 1970.
    pub created_ms: i64,
    /// What people are told about it.
    pub description: String,
    /// The ref that the layer is the own layer of.
    pub layer: RefId,
    /// Whether the blob is in the content store. If not, it is where it came from: see [`Ref::fetch_blob`].
    pub is_local: bool,
}

impl Ref {
    /// The layers as blobs, lowest first. What is missing is made and kept.
    ///
    /// A blob of another compression than asked for is good enough unless `force` is set. A layer that was never
    /// fetched stays where it is unless it has to be converted. Cancel: safe.
    pub async fn layers(
        &self,
        options: &CompressionOptions,
        force: bool,
        progress: Option<Progress>,
    ) -> Result<Vec<LayerBlob>> {
        let this = self.clone();
        blocking(move || this.store.make_permanent(&this.node)).await?;
        let layers = Node::layers(&self.node);
        let wanted = Wanted { options, force, alone: layers.len() == 1 };
        try_join_all(layers.iter().map(|layer| self.store.layer_blob(layer, &wanted, progress.as_ref())))
            .await
    }

    /// Brings the blob of one of [`Ref::layers`] into the content store.
    pub async fn fetch_blob(&self, blob: &LayerBlob, progress: Option<Progress>) -> Result<()> {
        if self.store.inner.content.has(&blob.desc.digest)? {
            return Ok(());
        }
        let layers = Node::layers(&self.node);
        let Some(layer) = layers.iter().find(|layer| layer.id == blob.layer) else {
            return Err(StoreError::Missing { id: blob.layer });
        };
        self.store.fetch_blob(layer, &blob.desc, progress.as_ref()).await
    }
}

struct Wanted<'a> {
    options: &'a CompressionOptions,
    force: bool,
    /// The only layer: it may have all cores.
    alone: bool,
}

impl Store {
    async fn layer_blob(
        &self,
        node: &Arc<Node>,
        wanted: &Wanted<'_>,
        progress: Option<&Progress>,
    ) -> Result<LayerBlob> {
        if let Some(found) = self.known_blob(node, wanted)? {
            return Ok(found);
        }
        let _one = node.packing.lock().await;
        if let Some(found) = self.known_blob(node, wanted)? {
            return Ok(found);
        }
        let made = match self.fetch_layer(node, progress).await? {
            // The archive exists in another compression: the new one must hold the same bytes.
            Some(existing) => self.convert(node, existing, wanted, progress).await?,
            None => self.pack(node, wanted, progress).await?,
        };
        let (store, node) = (self.clone(), node.clone());
        blocking(move || store.name_blob(&node, made)).await
    }

    /// A blob that will do, if it is here or can be fetched.
    fn known_blob(&self, node: &Node, wanted: &Wanted<'_>) -> Result<Option<LayerBlob>> {
        let row = node.row.lock();
        let Some(diff_id) = row.diff_id else { return Ok(None) };
        let fits = |blob: &&BlobRow| kind_of(&blob.desc) == Some(wanted.options.kind);
        let exact = row.blobs.iter().filter(fits);
        let others = row.blobs.iter().filter(|blob| !wanted.force && !fits(blob));
        for blob in exact.chain(others) {
            let is_local = self.inner.content.has(&blob.desc.digest)?;
            if is_local || blob.remote {
                return Ok(Some(LayerBlob {
                    desc: annotated(&blob.desc, diff_id, row.created_ms),
                    diff_id,
                    created_ms: row.created_ms,
                    description: row.description.clone(),
                    layer: node.id,
                    is_local,
                }));
            }
        }
        Ok(None)
    }

    /// Makes an archive from the snapshot.
    async fn pack(&self, node: &Arc<Node>, wanted: &Wanted<'_>, progress: Option<&Progress>) -> Result<Made> {
        self.load(node, progress).await?;
        let base = {
            let row = node.row.lock();
            match row.kind {
                Kind::Layer { .. } => node.needs.first().cloned(),
                Kind::Diff { lower, .. } => node.needs.iter().find(|need| Some(need.id) == lower).cloned(),
                Kind::Stack { .. } => None,
            }
        };
        if let Some(base) = &base {
            self.load(base, progress).await?;
        }
        let _permit = self.pack_permit().await?;
        let told = Told::new(node, progress);
        let (store, node, options) = (self.clone(), node.clone(), *wanted.options);
        let threads = if wanted.alone { cores() } else { 1 };
        blocking(move || {
            store.make(&node, &options, threads, told, |out| store.write_diff(&node, base.as_ref(), out))
        })
        .await
    }

    fn write_diff(&self, node: &Arc<Node>, base: Option<&Arc<Node>>, out: &mut dyn Write) -> Result<()> {
        let open = |node: &Arc<Node>| TreeGuard::open(&self.view(node)?, Some(node.clone()));
        let below = base.map(open).transpose()?;
        let differ = Differ::new(below.as_ref().map(TreeGuard::root), DiffOptions::default());
        let kind = node.row.lock().kind.clone();
        match (self.inner.snaps.form(), kind) {
            (LayerForm::Overlay, _) => {
                let id = node.snapshot().ok_or(StoreError::Missing { id: node.id })?;
                differ.diff_overlay(&self.inner.snaps.dir(&id)?, out)?;
            }
            (LayerForm::Full, Kind::Diff { upper, .. }) => {
                let upper = node.needs.iter().find(|need| Some(need.id) == upper);
                let mount = upper.map_or_else(|| Ok(self.inner.snaps.view(&[])?), |node| self.view(node))?;
                differ.diff_trees(TreeGuard::open(&mount, upper.cloned())?.root(), out)?;
            }
            (LayerForm::Full, _) => {
                differ.diff_trees(open(node)?.root(), out)?;
            }
        }
        Ok(())
    }

    /// Makes another compression of an archive that is here.
    async fn convert(
        &self,
        node: &Arc<Node>,
        existing: Descriptor,
        wanted: &Wanted<'_>,
        progress: Option<&Progress>,
    ) -> Result<Made> {
        let _permit = self.pack_permit().await?;
        let told = Told::new(node, progress);
        let (store, node, options) = (self.clone(), node.clone(), *wanted.options);
        let threads = if wanted.alone { cores() } else { 1 };
        let expected = node.row.lock().diff_id;
        let made = blocking(move || {
            let blob = store.inner.content.open_blob(&existing.digest)?;
            let made = store.make(&node, &options, threads, told, |out| {
                let mut plain = rbuild_oci::decompress(Box::new(blob))
                    .map_err(|source| compress_error(&existing, source))?;
                io::copy(&mut plain, out).map(drop).map_err(|error| {
                    StoreError::io("convert", &store.inner.content.path(&existing.digest), error)
                })
            })?;
            match expected {
                Some(expected) if expected != made.diff_id => {
                    Err(StoreError::DiffId { blob: existing.digest, expected, found: made.diff_id })
                }
                _ => Ok(made),
            }
        });
        made.await
    }

    /// Runs `write` into hash, compressor and content store at once.
    fn make(
        &self,
        node: &Node,
        options: &CompressionOptions,
        threads: usize,
        told: Told,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Made> {
        let ingest = self.inner.content.ingest(&format!("pack-{}-{}", node.id, random_id()), None)?;
        let sink = Sink(Arc::new(Mutex::new(Some(ingest))));
        let failed = |source| StoreError::compress(node.id, source);
        let compressor = rbuild_oci::compressor(Box::new(sink.clone()), options, threads).map_err(failed)?;
        let mut out = Packing {
            inner: BufWriter::with_capacity(BUFFER, compressor),
            hash: Hasher::new(),
            bytes: 0,
            node: node.id,
            told,
        };
        let written = write(&mut out);
        let abort = |error| {
            if let Some(ingest) = sink.0.lock().take() {
                ingest.abort();
            }
            error
        };
        written.map_err(abort)?;
        let Packing { inner, hash, told, .. } = out;
        let write_failed =
            |error: io::Error| StoreError::io("write", &self.inner.root.join("content"), error);
        let compressor = inner.into_inner().map_err(|error| abort(write_failed(error.into_error())))?;
        compressor.finish().map_err(failed).map_err(abort)?;
        let ingest = sink.0.lock().take().ok_or_else(|| StoreError::Worker { detail: "no ingest".into() })?;
        let (digest, size) = ingest.commit()?;
        let desc = Descriptor::new(media_type(options.kind), digest, size);
        told.each(|progress| progress.packed(&node.id, &desc));
        Ok(Made { desc, diff_id: hash.finish() })
    }

    /// Writes the row that names a finished archive.
    fn name_blob(&self, node: &Node, made: Made) -> Result<LayerBlob> {
        let core = &self.inner.core;
        core.db.step("layer.packed");
        let mut row = node.row.lock();
        let mut new = row.clone();
        new.diff_id = Some(made.diff_id);
        if new.chain.is_none() && matches!(new.kind, Kind::Layer { .. }) {
            let below = node.needs.first().map(|parent| parent.row.lock().chain);
            // Over a ref without such an identity the layer has none either.
            new.chain = match below {
                None => Some(made.diff_id),
                Some(below) => below.map(|below| chain_id(Some(below), made.diff_id)),
            };
        }
        new.blobs.retain(|blob| blob.desc.digest != made.desc.digest);
        new.blobs.push(BlobRow { desc: made.desc.clone(), remote: false });
        core.db.update(|tx| put_ref(tx, &node.id, &new))?;
        *row = new;
        Ok(LayerBlob {
            desc: annotated(&made.desc, made.diff_id, row.created_ms),
            diff_id: made.diff_id,
            created_ms: row.created_ms,
            description: row.description.clone(),
            layer: node.id,
            is_local: true,
        })
    }
}

struct Made {
    desc: Descriptor,
    diff_id: Digest,
}

fn kind_of(desc: &Descriptor) -> Option<Compression> {
    media::compression_of(&desc.media_type)
}

fn media_type(kind: Compression) -> &'static str {
    media::layer_type(kind, true)
}

/// The descriptor with what upstream notes about a layer.
fn annotated(desc: &Descriptor, diff_id: Digest, created_ms: i64) -> Descriptor {
    let mut desc = desc.clone().with_annotation(media::ANNOTATION_UNCOMPRESSED, diff_id.to_string());
    let nanos = u32::try_from(created_ms.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
    if let Some(time) = rbuild_oci::format_time(created_ms.div_euclid(1000), nanos) {
        desc = desc.with_annotation(media::ANNOTATION_CREATED_AT, time);
    }
    desc
}

/// The end of the pipe. The compressor takes its writer by value; the ingest has to come back.
#[derive(Clone)]
struct Sink(Arc<Mutex<Option<Ingest>>>);

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut ingest = self.0.lock();
        let ingest = ingest.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        ingest.write(buf).map_err(|error| match error.is_no_space() {
            true => io::Error::new(io::ErrorKind::StorageFull, error),
            false => io::Error::other(error),
        })?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The beginning of the pipe: hashes and counts what goes into the compressor.
struct Packing<W> {
    inner: W,
    hash: Hasher,
    bytes: u64,
    node: RefId,
    told: Told,
}

impl<W: Write> Write for Packing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write_all(buf)?;
        self.hash.update(buf);
        self.bytes += buf.len() as u64;
        self.told.each(|progress| progress.packing(&self.node, self.bytes));
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
