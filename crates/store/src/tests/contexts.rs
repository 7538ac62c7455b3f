use std::time::Duration;

use super::*;

fn entries(files: &[(&str, &str)]) -> Vec<ContextEntry> {
    files
        .iter()
        .map(|(path, content)| {
            let header = FileHeader { mode: 0o100_644, size: content.len() as u64, ..FileHeader::default() };
            let mut hash = header.hasher();
            hash.update(content);
            ContextEntry { path: path.as_bytes().to_vec(), kind: EntryKind::File, digest: hash.finish() }
        })
        .collect()
}

async fn send(store: &Store, files: &[(&str, &str)]) -> Ref {
    let context = store.local_context("key", "local source for context").await.expect("context");
    let root = context.root().expect("root");
    root.clear().expect("clears");
    let list: Vec<_> = files.iter().map(|(path, content)| (*path, Some(*content))).collect();
    write(&root, &list);
    context.finish(format!("{files:?}").into_bytes(), entries(files)).await.expect("finishes")
}

#[tokio::test]
async fn root_a_context_is_found_again_when_nobody_holds_it() {
    let home = Home::new(SnapshotterKind::Overlay);
    let store = &home.store;
    let first = send(store, &[("a", "1"), ("b", "2")]).await;
    assert_eq!(files(&first).await, ["a=1", "b=2"]);
    let options = ChecksumOptions::default();
    let known = first.checksum("a", &options).await.expect("checksum");

    let busy = store.local_context("key", "").await.expect("context");
    assert_eq!(busy.index(), None, "the first copy is held, so this is another one");
    drop((busy, first));
    let back = store.local_context("key", "").await.expect("context");
    assert_eq!(back.index(), Some(&b"[(\"a\", \"1\"), (\"b\", \"2\")]"[..]));
    let index = back.index().expect("set").to_vec();
    let same = back.finish(index, entries(&[("a", "1"), ("b", "2")])).await.expect("finishes");
    assert_eq!(same.checksum("a", &options).await.expect("checksum"), known);

    // What was read from disk says the same as what the transfer said.
    let kept = commit(store, Some(&same), &[("c", Some("3"))]).await;
    assert_eq!(kept.checksum("a", &options).await.expect("checksum"), known);
}

#[tokio::test]
async fn root_what_is_built_upon_a_context_makes_it_permanent() {
    let home = Home::new(SnapshotterKind::Overlay);
    let first = send(&home.store, &[("a", "1")]).await;
    let id = first.id();
    assert_eq!(home.store.get(&id).expect("reads"), None, "not a ref of its own yet");
    let child = commit(&home.store, Some(&first), &[("b", Some("2"))]).await;
    drop(first);
    let second = send(&home.store, &[("a", "changed")]).await;
    assert_eq!(files(&child).await, ["a=1", "b=2"]);
    assert_eq!(files(&second).await, ["a=changed"]);
    assert!(home.store.get(&id).expect("reads").is_some());
}

#[tokio::test]
async fn root_a_transfer_that_was_not_finished_leaves_no_trust() {
    let home = Home::new(SnapshotterKind::Overlay);
    drop(send(&home.store, &[("a", "1")]).await);
    let context = home.store.local_context("key", "").await.expect("context");
    write(&context.root().expect("root"), &[("half", Some("done"))]);
    drop(context);
    let next = home.store.local_context("key", "").await.expect("context");
    assert_eq!(next.index(), None);
    assert!(next.root().expect("root").read_dir().expect("lists").is_empty());
}

#[tokio::test]
async fn root_a_context_survives_a_restart() {
    let home = Home::new(SnapshotterKind::Overlay);
    drop(send(&home.store, &[("a", "1")]).await);
    let home = home.reopen(SnapshotterKind::Overlay);
    let context = home.store.local_context("key", "").await.expect("context");
    assert!(context.index().is_some());
    assert!(context.root().expect("root").exists("a").expect("looks"));
}

async fn cache(store: &Store, sharing: Sharing, base: Option<&Ref>) -> CacheMount {
    let options = CacheMountOptions {
        purpose: crate::CachePurpose::Steps,
        id: "npm".into(),
        sharing,
        base: base.cloned(),
        description: "cached mount".into(),
    };
    store.cache_mount(options).await.expect("mount")
}

#[tokio::test]
async fn root_cache_mounts_keep_their_files_and_share_as_asked() {
    let home = Home::new(SnapshotterKind::Overlay);
    let store = &home.store;
    let first = cache(store, Sharing::Shared, None).await;
    write(&first.root().expect("root"), &[("f", Some("1"))]);
    let second = cache(store, Sharing::Shared, None).await;
    assert!(second.root().expect("root").exists("f").expect("looks"), "shared");
    let private = cache(store, Sharing::Private, None).await;
    assert!(!private.root().expect("root").exists("f").expect("looks"), "one of its own");
    drop((first, second, private));
    let home = home.reopen(SnapshotterKind::Overlay);
    let again = cache(&home.store, Sharing::Private, None).await;
    assert!(again.root().expect("root").exists("f").expect("looks"), "kept, the oldest first");
}

#[tokio::test]
async fn root_a_locked_cache_mount_makes_the_second_wait() {
    let home = Home::new(SnapshotterKind::Overlay);
    let first = cache(&home.store, Sharing::Locked, None).await;
    write(&first.root().expect("root"), &[("f", Some("1"))]);
    let waiting = cache(&home.store, Sharing::Locked, None);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(30), &mut waiting).await.is_err());
    drop(first);
    let second = waiting.await;
    assert!(second.root().expect("root").exists("f").expect("looks"));
}

#[tokio::test]
async fn root_a_cache_mount_over_a_base_begins_with_its_files() {
    let home = Home::new(SnapshotterKind::Overlay);
    let base = commit(&home.store, None, &[("seed", Some("1"))]).await;
    let first = cache(&home.store, Sharing::Shared, Some(&base)).await;
    let second = cache(&home.store, Sharing::Shared, Some(&base)).await;
    write(&first.root().expect("root"), &[("f", Some("1"))]);
    assert!(second.root().expect("root").exists("seed").expect("looks"));
    assert!(second.root().expect("root").exists("f").expect("looks"));
    assert!(matches!(second.mount().expect("mount"), rbuild_sys::Mount::Bind { readonly: false, .. }));
    let plain = cache(&home.store, Sharing::Shared, None).await;
    assert!(!plain.root().expect("root").exists("seed").expect("looks"), "another base, another mount");
}
