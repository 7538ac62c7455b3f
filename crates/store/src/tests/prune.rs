use super::*;

fn all() -> PruneOptions {
    PruneOptions { all: true, ..PruneOptions::default() }
}

fn ids(records: &[UsageRecord]) -> Vec<String> {
    let mut ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn root_what_is_in_use_stays_and_the_rest_goes_children_first() {
    let home = Home::new(SnapshotterKind::Overlay);
    let store = &home.store;
    let base = commit(store, None, &[("a", Some("1"))]).await;
    let child = commit(store, Some(&base), &[("b", Some("2"))]).await;
    let held = commit(store, Some(&base), &[("c", Some("3"))]).await;
    let (base_id, child_id) = (base.id(), child.id());
    child.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    drop((base, child));
    let usage = store.usage(&[]).await.expect("usage");
    let in_use: Vec<_> = usage.iter().filter(|record| record.in_use).collect();
    assert_eq!(in_use.len(), 2, "the held one and its parent");
    assert!(usage.iter().all(|record| record.size > 0));

    let pruned = store.prune(&all()).await.expect("prunes");
    assert_eq!(ids(&pruned.records), [child_id.to_string()]);
    assert_eq!(files(&held).await, ["a=1", "c=3"]);
    drop(held);
    let pruned = store.prune(&all()).await.expect("prunes");
    assert_eq!(
        pruned.records.last().map(|record| record.id.clone()),
        Some(base_id.to_string()),
        "parents last"
    );
    assert!(store.usage(&[]).await.expect("usage").is_empty());
    assert!(store.inner.snaps.list().expect("lists").is_empty());
    let mut blobs = 0;
    store.content().walk(|_, _| blobs += 1).expect("walks");
    assert_eq!(blobs, 0, "blobs go with the last ref that needs them");
}

#[tokio::test]
async fn filters_and_limits_choose_what_goes() {
    let home = Home::new(SnapshotterKind::Native);
    let store = &home.store;
    let big = "x".repeat(64 * 1024);
    let mut made = Vec::new();
    for n in 0..4 {
        let tree = commit(store, None, &[("f", Some(&big))]).await;
        tree.set_description(&format!("number {n}")).await.expect("describes");
        made.push(tree.id());
    }
    let one = PruneOptions { filters: vec!["description==\"number 1\"".into()], ..all() };
    assert_eq!(ids(&store.prune(&one).await.expect("prunes").records), [made[1].to_string()]);
    let recent = PruneOptions { keep_duration: Duration::from_secs(600), ..all() };
    assert!(store.prune(&recent).await.expect("prunes").records.is_empty());
    let limit = PruneOptions { max_used_space: 150 * 1024, ..all() };
    let pruned = store.prune(&limit).await.expect("prunes");
    assert_eq!(pruned.records.len(), 1, "stops at the limit: {pruned:?}");
    let bad = PruneOptions { filters: vec!["id==".into()], ..all() };
    assert!(matches!(store.prune(&bad).await, Err(StoreError::Filter(_))));
}

#[tokio::test]
async fn the_longest_unused_goes_first_also_when_it_has_children() {
    let home = Home::new(SnapshotterKind::Native);
    let store = &home.store;
    let big = "x".repeat(256 * 1024);
    let mut made = Vec::new();
    for n in 0..3 {
        let base = commit(store, None, &[("f", Some(&format!("{n}{big}")))]).await;
        let child = commit(store, Some(&base), &[("g", Some("small"))]).await;
        made.push((base.id(), child.id()));
        drop((base, child));
        // The clock of uses has milliseconds.
        let before = crate::rows::now_ms();
        while crate::rows::now_ms() == before {
            tokio::task::yield_now().await;
        }
    }
    let total: u64 = store.usage(&[]).await.expect("usage").iter().map(|record| record.size).sum();
    let limit = PruneOptions { max_used_space: total - 1, ..all() };
    let pruned = store.prune(&limit).await.expect("prunes");
    assert_eq!(pruned.records[0].id, made[0].1.to_string(), "{pruned:?}");
    let limit = PruneOptions { max_used_space: total - 300 * 1024, ..all() };
    let pruned = store.prune(&limit).await.expect("prunes");
    assert_eq!(pruned.records[0].id, made[0].0.to_string(), "{pruned:?}");
}

#[tokio::test]
async fn root_cache_mounts_and_contexts_are_shown_and_go_unless_they_are_used() {
    let home = Home::new(SnapshotterKind::Overlay);
    let store = &home.store;
    let mount = |id: &str| CacheMountOptions {
        purpose: crate::CachePurpose::Steps,
        id: id.into(),
        sharing: Sharing::Shared,
        base: None,
        description: format!("cached mount {id}"),
    };
    let held = store.cache_mount(mount("held")).await.expect("mount");
    drop(store.cache_mount(mount("free")).await.expect("mount"));
    let context = store.local_context("key", "local source for context").await.expect("context");
    drop(context.finish(Vec::new(), Vec::new()).await.expect("finishes"));
    let usage = store.usage(&["type==exec.cachemount".into()]).await.expect("usage");
    assert_eq!(usage.len(), 2);
    assert!(usage.iter().all(|record| record.mutable && record.usage_count == 1));
    assert_eq!(usage.iter().filter(|record| record.in_use).count(), 1);
    let mut seen = Vec::new();
    store.prune_with(&all(), |record| seen.push(record.description.clone())).await.expect("prunes");
    seen.sort();
    assert_eq!(seen, ["cached mount free", "local source for context"]);
    drop(held);
    let pruned = store.prune(&all()).await.expect("prunes");
    assert_eq!(pruned.records[0].description, "cached mount held");
    assert!(store.inner.snaps.list().expect("lists").is_empty());
    assert_eq!(std::fs::read_dir(home.dir.path().join("named")).expect("lists").count(), 0);
}

#[tokio::test]
async fn records_go_with_their_refs() {
    let home = Home::new(SnapshotterKind::Native);
    let store = &home.store;
    let tree = commit(store, None, &[("f", Some("1"))]).await;
    let key = |n: u32| Digest::of(n.to_le_bytes());
    let row = |id: u32| RecordRow {
        id: key(id),
        vertex: key(101),
        op: key(102),
        name: "RUN x".into(),
        created_ms: 0,
        inputs: Vec::new(),
        outputs: vec![tree.id()],
    };
    let outputs = [tree.clone()];
    let id = store.put_record(row(1), &outputs, &[key(11), key(12)], false).await.expect("puts");
    assert_eq!(id, key(1));
    let same = store.put_record(row(2), &outputs, &[key(12), key(13)], false).await.expect("puts");
    assert_eq!(same, id, "the same outputs under a known key are the same record");
    store.alias_record(&id, &[key(14)]).await.expect("aliases");
    for n in 11..=14 {
        let found = store.record_by_key(&key(n)).expect("reads").expect("is there");
        assert_eq!((found.id, found.name.as_str()), (id, "RUN x"));
    }
    assert_eq!(store.record_keys(&id).expect("reads").len(), 4);
    // A record that lost its last key is gone.
    let other =
        store.put_record(row(3), &outputs, &[key(11), key(12), key(13), key(14)], true).await.expect("puts");
    assert_eq!(other, key(3));
    assert_eq!(store.record(&id).expect("reads"), None);

    drop((tree, outputs));
    store.prune(&all()).await.expect("prunes");
    assert_eq!(store.record_by_key(&key(11)).expect("reads"), None);
    for table in [
        crate::db::Table::Records,
        crate::db::Table::Keys,
        crate::db::Table::RecordKeys,
        crate::db::Table::Outputs,
    ] {
        assert!(store.inner.db.scan(table, b"").expect("reads").is_empty(), "{table:?}");
    }
}

#[tokio::test]
async fn images_keep_their_blobs() {
    let home = Home::new(SnapshotterKind::Native);
    let store = &home.store;
    let lease = store.lease();
    let put = |text: &str| {
        lease.blob(Digest::of(text));
        store.content().put(text.as_bytes()).expect("puts");
        Descriptor::of("text/plain", text.as_bytes())
    };
    let (manifest, layer, shared) = (put("manifest"), put("layer"), put("shared"));
    store.put_image("a", manifest.clone(), &[layer.clone(), shared.clone()]).await.expect("puts");
    store.put_image("b", shared.clone(), &[]).await.expect("puts");
    drop(lease);
    let home = home.reopen(SnapshotterKind::Native);
    let store = &home.store;
    let image = store.image("a").expect("reads").expect("is there");
    assert_eq!((image.target, image.size), (manifest.clone(), 19));
    assert_eq!(store.images().expect("lists").len(), 2);
    assert!(store.delete_image("a").await.expect("deletes"));
    assert!(!store.delete_image("a").await.expect("deletes"));
    store.inner.janitor.settle().await;
    let has = |desc: &Descriptor| store.content().has(&desc.digest).expect("looks");
    assert!(!has(&manifest) && !has(&layer) && has(&shared));
}

#[tokio::test]
async fn root_collecting_beside_builds_never_takes_what_they_use() {
    let home = Home::new(SnapshotterKind::Overlay);
    let store = home.store.clone();
    let base = commit(&store, None, &[("base", Some("1"))]).await.id();
    let mut work = tokio::task::JoinSet::new();
    for n in 0..4 {
        let store = store.clone();
        work.spawn(async move {
            for m in 0..15 {
                let Some(base) = store.get(&base).expect("reads") else { return };
                let name = format!("f{n}-{m}");
                let child = commit(&store, Some(&base), &[(&name, Some("x"))]).await;
                drop(base);
                let below = child.parent().expect("kept by its child");
                assert_eq!(files(&below).await, ["base=1"]);
                assert_eq!(files(&child).await, ["base=1".to_owned(), format!("{name}=x")]);
            }
        });
    }
    let collector = store.clone();
    work.spawn(async move {
        for _ in 0..10 {
            collector.prune(&all()).await.expect("prunes");
        }
    });
    while let Some(done) = work.join_next().await {
        done.expect("no panic");
    }
    store.prune(&all()).await.expect("prunes");
    assert!(store.usage(&[]).await.expect("usage").is_empty());
    assert!(store.inner.snaps.list().expect("lists").is_empty());
}

use std::time::Duration;
