//! At every step of every commit the root is copied, as a kill would leave it, and opened again.

use std::collections::BTreeMap;
use std::process::Command;

use super::*;

struct Snapshots {
    copies: Arc<parking_lot::Mutex<Vec<(&'static str, TempDir)>>>,
    store: Store,
    _dir: TempDir,
}

fn copy_of(root: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("temp dir");
    let done = Command::new("cp").arg("-a").arg(root.join(".")).arg(copy.path()).output().expect("cp");
    // Files that the store's thread removes meanwhile may vanish under it, as they would around a kill.
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(errors.lines().all(|line| line.contains("No such file")), "{errors}");
    copy
}

fn watched() -> Snapshots {
    let dir = tempfile::tempdir().expect("temp dir");
    let copies: Arc<parking_lot::Mutex<Vec<_>>> = Arc::default();
    let (root, sink) = (dir.path().to_owned(), copies.clone());
    let hook = move |step| sink.lock().push((step, copy_of(&root)));
    let options = StoreOptions { hook: Some(Arc::new(hook)), ..options(SnapshotterKind::Native) };
    let store = Store::open(dir.path(), options).expect("opens");
    Snapshots { copies, store, _dir: dir }
}

/// Opens a copy and checks that rows and files agree.
async fn check(copy: &Path) -> (Store, BTreeMap<String, Vec<String>>) {
    let store = Store::open(copy, options(SnapshotterKind::Native)).expect("opens");
    store.inner.janitor.settle().await;
    let mut trees = BTreeMap::new();
    for record in store.usage(&[]).await.expect("usage") {
        if record.mutable {
            continue;
        }
        let id = record.id.parse().expect("an id");
        let tree = store.get(&id).expect("reads").expect("a row is a ref");
        trees.insert(record.id, files(&tree).await);
    }
    let snapshots = store.inner.snaps.list().expect("lists").len();
    let named = store.inner.names.list().len();
    assert_eq!(snapshots, trees.len() + named, "every snapshot has a row, every row a snapshot");
    (store, trees)
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_all_that_was_committed_and_nothing_else() {
    let watched = watched();
    let mut done: Vec<(usize, RefId)> = Vec::new();
    let key = |n: usize| Digest::of(n.to_le_bytes());
    for n in 0..3 {
        let tree = commit(&watched.store, None, &[("f", Some(&n.to_string()))]).await;
        done.push((watched.copies.lock().len(), tree.id()));
        let row = RecordRow {
            id: key(n),
            vertex: key(n),
            op: key(n),
            name: String::new(),
            created_ms: 0,
            inputs: Vec::new(),
            outputs: vec![tree.id()],
        };
        watched.store.put_record(row, &[tree], &[key(n + 100)], false).await.expect("puts");
        if n == 1 {
            watched.store.sync().await.expect("syncs");
        }
    }
    let copies = std::mem::take(&mut *watched.copies.lock());
    assert!(copies.len() > 20, "{}", copies.len());
    for (at, (step, copy)) in copies.iter().enumerate() {
        let (store, trees) = check(copy.path()).await;
        for (n, (when, id)) in done.iter().enumerate() {
            let expected = Some(vec![format!("f={n}")]);
            let found = trees.get(&id.to_string()).cloned();
            assert!(
                found == expected || (found.is_none() && at < *when),
                "committed before {step} ({at}): {found:?}"
            );
            if let Some(row) = store.record_by_key(&key(n + 100)).expect("reads") {
                assert_eq!(row.outputs, [*id]);
                assert!(trees.contains_key(&id.to_string()), "a record names what is there");
            }
        }
    }
}

#[tokio::test]
async fn a_kill_while_garbage_is_removed_leaves_whole_refs_only() {
    let watched = watched();
    let store = &watched.store;
    let base = commit(store, None, &[("a", Some("1"))]).await;
    drop(commit(store, Some(&base), &[("b", Some("2"))]).await);
    drop(base);
    watched.copies.lock().clear();
    store.prune(&PruneOptions { all: true, ..PruneOptions::default() }).await.expect("prunes");
    let copies = std::mem::take(&mut *watched.copies.lock());
    for (step, copy) in copies {
        let (_, trees) = check(copy.path()).await;
        for tree in trees.values() {
            assert!(tree == &["a=1"] || tree == &["a=1", "b=2"], "{step}: {tree:?}");
        }
    }
}

#[tokio::test]
async fn after_a_reboot_what_was_not_synced_is_gone_and_the_rest_is_there() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Store::open(dir.path(), options(SnapshotterKind::Native)).expect("opens");
    let old = commit(&store, None, &[("f", Some("old"))]).await.id();
    store.content().put(b"synced").expect("puts");
    let synced = Descriptor::of("text/plain", b"synced");
    store.put_image("i", synced.clone(), &[]).await.expect("puts");
    let path = |text: &str| store.content().path(&Digest::of(text));
    // The clock of files ticks a few times in 10 ms: what is as young as the mark counts as unsynced.
    while !store.inner.was_synced(&path("synced")).expect("looks") {
        store.kv_put("test", b"tick", b"").await.expect("puts");
        store.sync().await.expect("syncs");
    }
    let new = commit(&store, None, &[("f", Some("new"))]).await.id();
    store.content().put(b"unsynced").expect("puts");
    assert!(!store.inner.was_synced(&path("unsynced")).expect("looks"));
    let copy = copy_of(dir.path());
    // Another boot id stands for the reboot.
    rewrite_boot(copy.path());
    // `cp` made the blobs younger than the mark.
    std::fs::write(copy.path().join("synced"), b"").expect("writes");
    let store = Store::open(copy.path(), options(SnapshotterKind::Native)).expect("opens");
    assert!(store.get(&old).expect("reads").is_some());
    assert!(store.get(&new).expect("reads").is_none());
    assert!(store.content().has(&synced.digest).expect("looks"));
}

#[tokio::test]
async fn a_ref_whose_files_are_gone_goes_with_its_children_and_records() {
    let home = Home::new(SnapshotterKind::Native);
    let key = Digest::of("key");
    let base = commit(&home.store, None, &[("a", Some("1"))]).await;
    let child = commit(&home.store, Some(&base), &[("b", Some("2"))]).await;
    let other = commit(&home.store, None, &[("c", Some("3"))]).await;
    let row = RecordRow {
        id: key,
        vertex: key,
        op: key,
        name: String::new(),
        created_ms: 0,
        inputs: Vec::new(),
        outputs: vec![child.id()],
    };
    home.store.put_record(row, std::slice::from_ref(&child), &[key], false).await.expect("puts");
    let lost = [base.id(), child.id()];
    let kept = other.id();
    home.store.inner.snaps.remove(&base.node.snapshot().expect("committed")).expect("removes");
    drop((base, child, other));
    let home = home.reopen(SnapshotterKind::Native);
    for id in lost {
        assert_eq!(home.store.get(&id).expect("reads"), None);
    }
    assert_eq!(home.store.record_by_key(&key).expect("reads"), None);
    assert_eq!(files(&home.store.get(&kept).expect("reads").expect("kept")).await, ["c=3"]);
    home.store.inner.janitor.settle().await;
    assert_eq!(home.store.inner.snaps.list().expect("lists").len(), 1, "the child's files are garbage");
}

/// Makes the database say that it was written under another boot id.
fn rewrite_boot(root: &Path) {
    let (db, _) = crate::db::Db::open(root, "another boot", None).expect("opens");
    drop(db);
}
