use rbuild_solver::{Level, RecordInput};
use rbuild_store::{NewMutable, PruneOptions, SnapshotterKind, StoreOptions};
use tempfile::TempDir;

use super::*;

fn open(dir: &TempDir) -> LocalCache {
    let options = StoreOptions { snapshotter: SnapshotterKind::Native, ..StoreOptions::default() };
    LocalCache::new(Store::open(dir.path(), options).expect("opens"))
}

fn key(n: u32) -> Digest {
    Digest::of(n.to_le_bytes())
}

fn query(n: u32) -> Query {
    Query {
        key: key(n),
        level: Level::Virtual,
        op: key(0),
        inputs: Vec::new(),
        aliases: Vec::new(),
        outputs: 1,
    }
}

async fn output(cache: &LocalCache) -> Ref {
    let new = cache.store().new_mutable(None, NewMutable::regular("RUN true")).await.expect("mutable");
    new.commit().await.expect("commits")
}

async fn commit(cache: &LocalCache, keys: &[u32], outputs: &[Ref]) -> RecordId {
    let keys: Vec<_> = keys.iter().map(|n| key(*n)).collect();
    let input =
        RecordInput { record: Some(RecordId(key(7))), output: 1, selector: Some(key(8)), content: None };
    let record = NewRecord {
        id: None,
        keys: &keys,
        name: "RUN true",
        vertex: key(1000),
        op: key(1001),
        inputs: &[input],
        outputs,
    };
    cache.commit(record).await.expect("commits")
}

#[tokio::test]
async fn a_record_is_found_under_all_its_keys_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let cache = open(&dir);
    let made = output(&cache).await;
    let id = commit(&cache, &[1, 2], std::slice::from_ref(&made)).await;
    cache.alias(id, &[key(3)]).await.expect("aliases");
    let output = made.id();
    drop((made, cache));
    let cache = open(&dir);
    for n in 1..=3 {
        let found = cache.lookup(&query(n)).await.expect("looks").expect("is there");
        assert_eq!((found.id, found.outputs[0].id()), (id, output));
    }
    assert!(cache.lookup(&query(4)).await.expect("looks").is_none());
    let row = cache.store().record(&id.0).expect("reads").expect("is there");
    assert_eq!((row.name.as_str(), row.op), ("RUN true", key(1001)));
    assert_eq!((row.inputs[0].record, row.inputs[0].selector), (Some(key(7)), Some(key(8))));
}

#[tokio::test]
async fn a_record_whose_output_was_pruned_is_a_miss() {
    let dir = tempfile::tempdir().expect("temp dir");
    let cache = open(&dir);
    let made = output(&cache).await;
    commit(&cache, &[1], &[made]).await;
    let held = cache.lookup(&query(1)).await.expect("looks").expect("is there");
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    cache.store().prune(&all).await.expect("prunes");
    assert!(cache.lookup(&query(1)).await.expect("looks").is_some(), "held outputs stay");
    drop(held);
    cache.store().prune(&all).await.expect("prunes");
    assert!(cache.lookup(&query(1)).await.expect("looks").is_none());
}

#[tokio::test]
async fn the_same_result_again_keeps_its_identity() {
    let dir = tempfile::tempdir().expect("temp dir");
    let cache = open(&dir);
    let made = output(&cache).await;
    let first = commit(&cache, &[1], std::slice::from_ref(&made)).await;
    let again = commit(&cache, &[1, 2], std::slice::from_ref(&made)).await;
    assert_eq!(first, again, "what was built upon it is still found");
    let other = output(&cache).await;
    let new = commit(&cache, &[1, 2], &[other]).await;
    assert_ne!(first, new);
    assert_eq!(cache.lookup(&query(2)).await.expect("looks").expect("is there").id, new);
}

#[tokio::test]
async fn a_look_up_costs_microseconds() {
    let dir = tempfile::tempdir().expect("temp dir");
    let cache = open(&dir);
    let made = [output(&cache).await];
    let begun = std::time::Instant::now();
    for n in 0..500 {
        commit(&cache, &[n], &made).await;
    }
    let commits = begun.elapsed() / 500;
    let begun = std::time::Instant::now();
    for n in 0..500 {
        assert!(cache.lookup(&query(n)).await.expect("looks").is_some());
    }
    println!("commit {commits:?}, look-up {:?}", begun.elapsed() / 500);
}
