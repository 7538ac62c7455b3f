//! What is said about sizes against what the file system says.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

use super::full::Small;
use super::*;

/// Bytes of things on disk with all below them, as the program `du` counts.
fn on_disk(things: &[PathBuf]) -> u64 {
    let mut seen = HashSet::new();
    let mut todo = things.to_vec();
    let mut total = 0;
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("stat");
        if seen.insert(meta.ino()) {
            total += meta.blocks() * 512;
        }
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).expect("lists").map(|entry| entry.expect("entry").path()));
        }
    }
    total
}

/// What the store accounts for.
fn held(home: &Home) -> u64 {
    let below = |name: &str| {
        let dirs = std::fs::read_dir(home.dir.path().join(name)).expect("lists");
        let dirs = dirs.map(|entry| entry.expect("entry").path());
        // The directories themselves, and the one that stands for nothing, are the store's.
        let things: Vec<PathBuf> = dirs.filter(|path| !path.ends_with(".empty")).collect();
        on_disk(&things)
    };
    ["content/blobs/sha256", "snapshots", "named"].map(below).iter().sum()
}

async fn used(store: &Store) -> u64 {
    store.usage(&[]).await.expect("usage").iter().map(|record| record.size).sum()
}

async fn agrees(home: &Home, when: &str) {
    let (told, found) = (used(&home.store).await, held(home));
    assert!(told.abs_diff(found) * 100 <= found, "{when}: du says {told}, the file system {found}");
}

/// A client's directory of a hundred files, finished.
async fn context(store: &Store) -> Ref {
    let context = store.local_context("key", "context").await.expect("context");
    let mut entries = Vec::new();
    for n in 0..100 {
        let path = format!("f{n}");
        write(&context.root().expect("root"), &[(&path, Some(&"x".repeat(20_000)))]);
        let digest = Digest::of(&path);
        entries.push(ContextEntry { path: path.into(), kind: EntryKind::File, digest });
    }
    context.finish(b"index".to_vec(), entries).await.expect("finishes")
}

/// A ref that has names for the files of another one, as COPY makes them.
async fn linked(store: &Store, from: &Ref) -> Ref {
    let new = store.new_mutable(None, NewMutable::regular("COPY")).await.expect("mutable");
    {
        let (src, dst) = (from.tree().await.expect("tree"), new.tree().await.expect("tree"));
        for n in 0..100 {
            dst.root().link_from(src.root(), format!("f{n}"), format!("f{n}")).expect("links");
        }
    }
    new.commit().await.expect("commits")
}

#[tokio::test]
async fn root_du_counts_what_several_have_once_and_agrees_with_the_file_system() {
    let home = Home::new(SnapshotterKind::Overlay);
    let store = &home.store;
    let sent = context(store).await;
    // Measured before its files get more names.
    agrees(&home, "a context").await;
    let copied = linked(store, &sent).await;
    agrees(&home, "its copy").await;
    let again = linked(store, &sent).await;
    let over = commit(store, Some(&copied), &[("g", Some(&"y".repeat(300_000)))]).await;
    over.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    again.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    agrees(&home, "two copies, a layer over one, blobs").await;
    drop((sent, copied, again, over));

    // Files of a client that become an ordinary ref, and are copied later still.
    let kept = context(store).await;
    let child = commit(store, Some(&kept), &[("h", Some("z"))]).await;
    agrees(&home, "a context that was built upon").await;
    let late = linked(store, &kept).await;
    agrees(&home, "a late copy of it").await;
    drop((kept, child, late));
    for n in 0..10 {
        commit(store, None, &[("f", Some(&n.to_string().repeat(300_000)))]).await;
    }
    agrees(&home, "results of their own").await;

    let home = home.reopen(SnapshotterKind::Overlay);
    agrees(&home, "after a restart").await;
    let before = held(&home);
    let sum = used(&home.store).await;
    let limit = PruneOptions { all: true, max_used_space: sum / 2, ..PruneOptions::default() };
    let pruned = home.store.prune(&limit).await.expect("prunes");
    agrees(&home, "after a prune").await;
    let freed = before - held(&home);
    assert!(pruned.bytes.abs_diff(freed) * 100 <= freed, "said {}, freed {freed}", pruned.bytes);
    let left = used(&home.store).await;
    assert!(left > 0 && left <= sum / 2, "{left} of {sum} are left");
}

#[tokio::test]
async fn blobs_that_only_an_image_needs_are_shown_and_never_pruned() {
    let home = Home::new(SnapshotterKind::Native);
    let store = &home.store;
    let tree = commit(store, None, &[("f", Some(&"x".repeat(100_000)))]).await;
    let layers = tree.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    let layer = layers[0].desc.clone();
    store.put_image("docker.io/a/b:c", layer.clone(), &[]).await.expect("puts");
    assert!(!store.usage(&[]).await.expect("usage").iter().any(|record| record.id.starts_with("image:")));
    drop(tree);
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    store.prune(&all).await.expect("prunes");
    let left = store.usage(&[]).await.expect("usage");
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].id.as_str(), left[0].in_use), ("image:docker.io/a/b:c", true));
    assert!(store.content().has(&layer.digest).expect("looks"));
    agrees(&home, "with an image alone").await;
}

#[tokio::test]
async fn root_room_is_made_on_a_disk_that_is_full_to_the_last_byte() {
    let disk = Small::new(64 << 20);
    let root = disk.0.path().join("root");
    let store = Store::open(&root, options(SnapshotterKind::Native)).expect("opens");
    let held = commit(&store, None, &[("f", Some("held"))]).await;
    for n in 0..40 {
        commit(&store, None, &[("f", Some(&n.to_string().repeat(200_000)))]).await;
    }
    let reserve = root.join("reserve");
    assert!(reserve.exists(), "room for the collection itself");
    let filler = disk.fill();
    assert!(store.is_disk_full().expect("looks"));
    let space = store.space().await.expect("space");
    assert_eq!(space.free, 0);
    assert!(space.reclaimable > 10 << 20, "{space:?}");
    assert!(space.others() > 16 << 20, "{space:?}");
    let freed = store.make_room(&[], 0).await.expect("makes room");
    assert!(freed >= 2 << 20, "{freed}");
    assert!(!store.is_disk_full().expect("looks"));
    commit(&store, Some(&held), &[("g", Some(&"x".repeat(1 << 20)))]).await;
    assert_eq!(files(&held).await, ["f=held"]);
    // What was used last is still there: no more went than had to.
    assert!(store.usage(&[]).await.expect("usage").len() > 5);
    std::fs::remove_file(filler).expect("removes");
    drop((held, store));
    let _store = Store::open(&root, options(SnapshotterKind::Native)).expect("opens again");
    assert!(reserve.exists(), "it is back");
}
