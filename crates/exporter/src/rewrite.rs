//! Layers in another form than they are kept in: times no later than `SOURCE_DATE_EPOCH`, tables of contents.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_digest::{Digest, Hasher, random_id};
use rbuild_oci::layer::{EntryKind, LayerEntry, LayerReader, LayerWriter};
use rbuild_oci::{CompressionOptions, Descriptor, ImageConfig, compressor, decompress, format_time, media};
use rbuild_store::{LayerBlob, Lease, Store};

use crate::estargz::{self, TOC_DIGEST, UNCOMPRESSED_SIZE};
use crate::request::{ExportRef, ExportRequest};
use crate::{ExportError, Result};

/// Upstream's mark of such a layer, in its descriptor.
pub(crate) const REWRITTEN: &str = "buildkit/rewritten-timestamp";
/// Bytes collected before they are hashed, packed or unpacked.
const BUFFER: usize = 256 << 10;
const NANOS: i64 = 1_000_000_000;

/// What becomes of layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rewriting<'a> {
    pub(crate) compression: &'a CompressionOptions,
    /// Times in new layers are cut at it.
    pub(crate) epoch: Option<i64>,
    /// They can be read piece by piece.
    pub(crate) estargz: bool,
    /// Those of the base image, too.
    pub(crate) force: bool,
}

/// How one layer is packed.
#[derive(Debug, Clone, Copy)]
struct Packing {
    compression: CompressionOptions,
    epoch: Option<i64>,
    estargz: bool,
}

/// Replaces the layers of `part`. Times in those of its base image are its maker's, and stay.
pub(crate) async fn rewrite(
    store: &Store,
    request: &ExportRequest,
    part: &ExportRef,
    layers: &mut [LayerBlob],
    how: Rewriting<'_>,
    lease: &Lease,
) -> Result<()> {
    let Some(reference) = &part.reference else { return Ok(()) };
    let kept = inherited(part.base.as_deref(), layers);
    let shown = how.epoch.map_or_else(|| "converting layers to estargz".to_owned(), shown);
    let status = request.reporter.status(&shown, "");
    for (position, layer) in layers.iter_mut().enumerate() {
        let is_new = position >= kept;
        let packing = Packing {
            compression: *how.compression,
            epoch: how.epoch.filter(|_| is_new),
            estargz: how.estargz && (is_new || how.force),
        };
        if packing.epoch.is_none() && !packing.estargz {
            continue;
        }
        reference.fetch_blob(layer, None).await?;
        lease.blob(layer.desc.digest);
        let (store, old) = (store.clone(), layer.desc.digest);
        let made = tokio::task::spawn_blocking(move || repack(&store, &old, packing));
        let (descriptor, diff_id) =
            made.await.map_err(|error| ExportError::Internal(error.to_string()))??;
        lease.blob(descriptor.digest);
        layer.desc = match packing.epoch {
            Some(epoch) => descriptor.with_annotation(REWRITTEN, epoch.to_string()),
            None => descriptor,
        };
        layer.diff_id = diff_id;
        layer.is_local = true;
    }
    status.done();
    Ok(())
}

fn content_error(error: impl std::fmt::Display) -> ExportError {
    ExportError::Content(error.to_string())
}

/// `rewriting layers with source-date-epoch 1 (1970-01-01 00:00:01 +0000 UTC)`
fn shown(epoch: i64) -> String {
    let time = format_time(epoch, 0).unwrap_or_default().replace('T', " ").replace('Z', " +0000 UTC");
    format!("rewriting layers with source-date-epoch {epoch} ({time})")
}

/// How many of the layers are the base image's: they are its maker's, and registries have them.
fn inherited(base: Option<&[u8]>, layers: &[LayerBlob]) -> usize {
    let Some(base) = base.and_then(|bytes| ImageConfig::parse(bytes).ok()) else { return 0 };
    layers.iter().zip(&base.rootfs.diff_ids).take_while(|(layer, id)| layer.diff_id == **id).count()
}

/// The end of the pipe. The compressor takes its writer by value; the ingest has to come back.
#[derive(Debug)]
struct Shared<T>(Arc<Mutex<Option<T>>>);

impl<T: Write> Write for Shared<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what goes through.
struct Hashing<W> {
    inner: W,
    hash: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Makes the new blob; gives its descriptor and the digest of its archive.
fn repack(store: &Store, old: &Digest, packing: Packing) -> Result<(Descriptor, Digest)> {
    let content = store.content();
    let blob = content.open_blob(old).map_err(content_error)?;
    let target =
        content.ingest(&format!("rewrite-{}-{}", old.hex(), random_id()), None).map_err(content_error)?;
    let shared = Shared(Arc::new(Mutex::new(Some(target))));
    let written = packed(blob, Shared(shared.0.clone()), packing);
    let Some(target) = shared.0.lock().take() else {
        return Err(ExportError::Internal("the new layer is gone".into()));
    };
    match written {
        Ok((diff_id, annotations)) => {
            let (digest, size) = target.commit().map_err(content_error)?;
            let kind = packing.compression.kind;
            let mut descriptor = Descriptor::new(media::layer_type(kind, true), digest, size);
            descriptor.annotations = annotations;
            Ok((descriptor, diff_id))
        }
        Err(error) => {
            target.abort();
            Err(ExportError::io(format!("rewriting layer {old}"))(error))
        }
    }
}

type Packed = (Digest, BTreeMap<String, String>);

/// Gives the digest of the new archive, and annotations of the layer.
fn packed(
    blob: impl Read + Send + 'static,
    target: impl Write + Send + 'static,
    packing: Packing,
) -> io::Result<Packed> {
    let Packing { compression, epoch, estargz: false } = packing else {
        let plain = decompress(Box::new(BufReader::with_capacity(BUFFER, blob)))?;
        let target = BufWriter::with_capacity(BUFFER, target);
        let latest = packing.epoch.map(|epoch| epoch.saturating_mul(NANOS));
        let written = estargz::convert(plain, target, packing.compression.level, latest)?;
        let annotations = [
            (TOC_DIGEST.to_owned(), written.toc_digest.to_string()),
            (UNCOMPRESSED_SIZE.to_owned(), written.uncompressed_size.to_string()),
        ];
        return Ok((written.diff_id, annotations.into()));
    };
    let diff_id = pack(blob, target, &compression, epoch.unwrap_or(i64::MAX))?;
    Ok((diff_id, BTreeMap::new()))
}

fn pack(
    blob: impl Read + Send + 'static,
    target: impl Write + Send + 'static,
    options: &CompressionOptions,
    epoch: i64,
) -> io::Result<Digest> {
    let plain = decompress(Box::new(BufReader::with_capacity(BUFFER, blob)))?;
    let packed = compressor(Box::new(BufWriter::with_capacity(BUFFER, target)), options, 1)?;
    let mut out = Hashing { inner: BufWriter::with_capacity(BUFFER, packed), hash: Hasher::new() };
    cut(plain, &mut out, epoch)?;
    let packed = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    packed.finish()?.flush()?;
    Ok(out.hash.finish())
}

/// Copies an archive. What an entry is stays as it is, but for its time.
fn cut(archive: impl Read, out: impl Write, epoch: i64) -> io::Result<()> {
    let latest = epoch.saturating_mul(NANOS);
    let mut reader = LayerReader::new(archive);
    let mut writer = LayerWriter::new(out);
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        let entry = LayerEntry { mtime_ns: entry.mtime_ns.min(latest), ..entry };
        match entry.kind {
            EntryKind::File => writer.append(&entry, &mut reader)?,
            _ => writer.start(&entry)?,
        }
    }
    writer.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use rbuild_oci::Compression;

    use super::*;

    fn archive(times: &[(&str, i64)]) -> Vec<u8> {
        let mut writer = LayerWriter::new(Vec::new());
        for (path, seconds) in times {
            let mut entry = LayerEntry::new(*path, EntryKind::File);
            entry.mtime_ns = seconds * NANOS;
            entry.size = path.len() as u64;
            entry.xattrs.insert("security.capability".into(), vec![1, 0, 255]);
            writer.append(&entry, path.as_bytes()).unwrap();
        }
        writer.whiteout("gone".as_ref(), 0).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn only_times_later_than_the_epoch_change() {
        let mut out = Vec::new();
        cut(&archive(&[("old", 5), ("at", 100), ("new", 101)])[..], &mut out, 100).unwrap();
        assert_eq!(out, archive(&[("old", 5), ("at", 100), ("new", 100)]));
    }

    #[test]
    fn the_digest_is_that_of_the_archive() {
        for kind in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
            let source = io::Cursor::new(archive(&[("a", 7)]));
            let target = Shared(Arc::new(Mutex::new(Some(Vec::new()))));
            let diff_id = pack(source, Shared(target.0.clone()), &CompressionOptions::new(kind), 1).unwrap();
            let packed = target.0.lock().take().unwrap();
            let mut plain = Vec::new();
            decompress(Box::new(io::Cursor::new(packed))).unwrap().read_to_end(&mut plain).unwrap();
            assert_eq!(plain, archive(&[("a", 1)]));
            assert_eq!(diff_id, Digest::of(&plain));
        }
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let whole = archive(&[("a", 7)]);
        assert!(cut(&whole[..700], io::sink(), 1).is_err());
    }

    #[test]
    fn the_progress_line_is_upstreams() {
        let expected = "rewriting layers with source-date-epoch 1500000000 (2017-07-14 02:40:00 +0000 UTC)";
        assert_eq!(shown(1_500_000_000), expected);
    }
}
