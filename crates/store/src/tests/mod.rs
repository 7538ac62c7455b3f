//! Tests of the whole store on a real directory. What stacks layers runs on both snapshotters.

mod contexts;
mod digests;
mod flips;
mod full;
mod kill;
mod layers;
mod prune;
mod refs;
mod sizes;
mod travel;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rbuild_digest::Digest;
use rbuild_oci::{ByteStream, CompressionOptions, Descriptor, Provider};
use tempfile::TempDir;

use crate::*;

/// A root directory and the store in it.
pub(crate) struct Home {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

pub(crate) fn options(kind: SnapshotterKind) -> StoreOptions {
    // No sync by itself, so that tests decide when one happens.
    StoreOptions {
        snapshotter: kind,
        sync_interval: std::time::Duration::from_secs(3600),
        ..Default::default()
    }
}

impl Home {
    pub(crate) fn new(kind: SnapshotterKind) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path(), options(kind)).expect("opens");
        Self { dir, store }
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopen(self, kind: SnapshotterKind) -> Self {
        let Self { dir, store } = self;
        drop(store);
        let store = Store::open(dir.path(), options(kind)).expect("opens again");
        Self { dir, store }
    }
}

/// Commits a tree: `parent` with these files written (`None` removes).
pub(crate) async fn commit(store: &Store, parent: Option<&Ref>, files: &[(&str, Option<&str>)]) -> Ref {
    let new = store.new_mutable(parent, NewMutable::regular("test")).await.expect("mutable");
    {
        let tree = new.tree().await.expect("tree");
        write(tree.root(), files);
    }
    new.commit().await.expect("commits")
}

pub(crate) fn write(root: &rbuild_sys::Root, files: &[(&str, Option<&str>)]) {
    for (path, content) in files {
        match content {
            None => root.remove_all(path).expect("removes"),
            Some(content) => {
                if let Some(dir) = Path::new(path).parent().filter(|dir| *dir != Path::new("")) {
                    root.mkdir_all(dir, 0o755).expect("makes");
                }
                let mut file = root.create_file(path, 0o644, false).expect("creates");
                file.set_len(0).expect("truncates");
                io::Write::write_all(&mut file, content.as_bytes()).expect("writes");
            }
        }
    }
}

/// All files of a ref as `path=content`, sorted.
pub(crate) async fn files(tree: &Ref) -> Vec<String> {
    let guard = tree.tree().await.expect("tree");
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let here = if dir == Path::new("") { Path::new(".") } else { &dir };
        for entry in guard.root().open_dir(here).expect("opens").read_dir().expect("lists") {
            let path = dir.join(&entry.name);
            if guard.root().stat(&path).expect("stat").is_dir() {
                todo.push(path);
            } else {
                let bytes = guard.root().read_limited(&path, 1 << 20).expect("reads");
                found.push(format!("{}={}", path.display(), String::from_utf8_lossy(&bytes)));
            }
        }
    }
    found.sort();
    found
}

/// Serves blobs from memory and counts how often it is asked.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) blobs: parking_lot::Mutex<std::collections::HashMap<Digest, Bytes>>,
    pub(crate) asked: AtomicUsize,
}

#[async_trait]
impl Provider for Blobs {
    async fn open(&self, desc: &Descriptor, offset: u64) -> io::Result<ByteStream> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let blob = self.blobs.lock().get(&desc.digest).cloned().ok_or(io::ErrorKind::NotFound)?;
        let rest = blob.slice(usize::try_from(offset).expect("small")..);
        let chunks: Vec<io::Result<Bytes>> =
            rest.chunks(1000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        Ok(futures::stream::iter(chunks).boxed())
    }
}

/// An image of two layers, made in a store of its own: what to pull, and what it should hold.
pub(crate) struct TestImage {
    pub(crate) layers: Vec<LayerBlob>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) files: Vec<String>,
    pub(crate) checksum: Digest,
}

pub(crate) async fn image(kind: SnapshotterKind) -> TestImage {
    let home = Home::new(kind);
    let base =
        commit(&home.store, None, &[("etc/a", Some("1")), ("etc/gone", Some("2")), ("bin/sh", Some("#"))])
            .await;
    let top = commit(
        &home.store,
        Some(&base),
        &[("etc/gone", None), ("etc/a", Some("changed")), ("new/f", Some("3"))],
    )
    .await;
    let layers = top.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    let blobs = Arc::new(Blobs::default());
    for layer in &layers {
        let bytes = home.store.content().read(&layer.desc.digest, 1 << 20).expect("blob");
        blobs.blobs.lock().insert(layer.desc.digest, bytes.into());
    }
    let checksum = top.checksum("", &ChecksumOptions::default()).await.expect("checksum");
    TestImage { layers, blobs, files: files(&top).await, checksum }
}

impl TestImage {
    /// The image as a lazy ref.
    pub(crate) async fn pull(&self, store: &Store) -> Ref {
        let mut parent = None;
        for layer in &self.layers {
            let source = LayerSource {
                desc: layer.desc.clone(),
                diff_id: layer.diff_id,
                provider: self.blobs.clone(),
                origin: "test".into(),
                created_ms: Some(layer.created_ms),
                description: "pulled".into(),
                record_type: RecordType::Regular,
                progress: None,
            };
            parent = Some(store.layer(parent.as_ref(), source).await.expect("layer"));
        }
        parent.expect("two layers")
    }
}
