use super::*;

#[tokio::test]
async fn root_layers_stack_and_survive_a_restart() {
    for kind in [SnapshotterKind::Overlay, SnapshotterKind::Native] {
        let home = Home::new(kind);
        let base = commit(&home.store, None, &[("a", Some("1")), ("d/b", Some("2"))]).await;
        let top = commit(&home.store, Some(&base), &[("a", None), ("d/c", Some("3"))]).await;
        assert_eq!(files(&top).await, ["d/b=2", "d/c=3"]);
        assert_eq!(files(&base).await, ["a=1", "d/b=2"]);
        assert_eq!(top.parent().as_ref(), Some(&base));
        assert_eq!(top.chain(), [base.clone(), top.clone()]);
        let id = top.id();
        drop((base, top));
        let home = home.reopen(kind);
        let top = home.store.get(&id).expect("reads").expect("is there");
        assert_eq!(files(&top).await, ["d/b=2", "d/c=3"]);
    }
}

#[tokio::test]
async fn a_tree_that_is_not_committed_leaves_nothing() {
    let home = Home::new(SnapshotterKind::Native);
    let new = home.store.new_mutable(None, NewMutable::default()).await.expect("mutable");
    let id = new.id();
    assert_eq!(home.store.inner.snaps.list().expect("lists").len(), 1);
    drop(new);
    home.store.inner.janitor.settle().await;
    assert!(home.store.inner.snaps.list().expect("lists").is_empty());
    assert_eq!(home.store.get(&id).expect("reads"), None);
}

#[tokio::test]
async fn root_merge_and_diff_show_the_right_layers() {
    for kind in [SnapshotterKind::Overlay, SnapshotterKind::Native] {
        let home = Home::new(kind);
        let store = &home.store;
        let base = commit(store, None, &[("a", Some("base")), ("b", Some("base"))]).await;
        let left = commit(store, Some(&base), &[("a", None), ("l", Some("left"))]).await;
        let right = commit(store, Some(&base), &[("b", Some("right")), ("r", Some("right"))]).await;

        let only = store.diff(Some(&base), Some(&right), "d").await.expect("diff");
        assert_eq!(files(&only).await, ["b=right", "r=right"], "{kind:?}");
        let removal = store.diff(Some(&base), Some(&left), "d").await.expect("diff");
        assert_eq!(files(&removal).await, ["l=left"], "the whiteout is not seen");

        let merged = store.merge(&[right.clone(), removal.clone()], "m").await.expect("merge");
        assert_eq!(files(&merged).await, ["b=right", "l=left", "r=right"], "the whiteout takes `a` away");
        // The second input brings the base again, over what the first one did to it.
        let twice = store.merge(&[left.clone(), right.clone()], "m").await.expect("merge");
        assert_eq!(files(&twice).await, ["a=base", "b=right", "l=left", "r=right"]);

        let across = store.diff(Some(&left), Some(&right), "d").await.expect("diff");
        assert_eq!(files(&across).await, ["a=base", "b=right", "r=right"]);
        let applied = store.merge(&[left.clone(), across], "m").await.expect("merge");
        assert_eq!(files(&applied).await, files(&right).await);

        let upon = commit(store, Some(&merged), &[("z", Some("z"))]).await;
        assert_eq!(files(&upon).await, ["b=right", "l=left", "r=right", "z=z"]);
        let none = store.diff(Some(&base), Some(&base), "d").await.expect("diff");
        assert!(files(&none).await.is_empty());
    }
}

#[tokio::test]
async fn root_what_a_layer_removed_means_the_same_over_other_layers() {
    for kind in [SnapshotterKind::Overlay, SnapshotterKind::Native] {
        let home = Home::new(kind);
        let store = &home.store;
        let base = commit(store, None, &[("d/a", Some("1")), ("d/s/b", Some("1")), ("e/x", Some("1"))]).await;
        // Overlayfs marks a directory that was replaced as hiding everything, and `e` is left without files.
        let replaced = [("d", None), ("d/s/new", Some("2")), ("e/x", None)];
        let upper = commit(store, Some(&base), &replaced).await;
        let other =
            [("d/a", Some("o")), ("d/s/b", Some("o")), ("d/kept", Some("o")), ("d/s/kept", Some("o"))];
        let other = commit(store, None, &other).await;
        let diff = store.diff(Some(&base), Some(&upper), "d").await.expect("diff");
        let merged = store.merge(&[other.clone(), diff.clone()], "m").await.expect("merge");
        assert_eq!(files(&merged).await, ["d/kept=o", "d/s/kept=o", "d/s/new=2"], "{kind:?}");
        let upon = commit(store, Some(&merged), &[("e/y", Some("3"))]).await;
        assert_eq!(files(&upon).await, ["d/kept=o", "d/s/kept=o", "d/s/new=2", "e/y=3"], "{kind:?}");
        // A difference that was computed has whiteouts in directories of its own.
        let across = store.diff(Some(&base), Some(&other), "d").await.expect("diff");
        let alone = ["d/a=o", "d/kept=o", "d/s/b=o", "d/s/kept=o"];
        assert_eq!(files(&across).await, alone, "{kind:?}");
        let beside = commit(store, None, &[("z", Some("z"))]).await;
        let merged = store.merge(&[beside, diff], "m").await.expect("merge");
        assert_eq!(files(&merged).await, ["d/s/new=2", "z=z"], "{kind:?}");
    }
}

#[tokio::test]
async fn the_empty_tree_is_one_ref() {
    let home = Home::new(SnapshotterKind::Native);
    let (a, b) = tokio::join!(home.store.scratch(), home.store.scratch());
    let a = a.expect("scratch");
    assert_eq!(a, b.expect("scratch"));
    assert!(files(&a).await.is_empty());
}

#[tokio::test]
async fn a_second_daemon_on_the_same_root_is_refused_in_words() {
    let home = Home::new(SnapshotterKind::Native);
    let error = Store::open(home.dir.path(), options(SnapshotterKind::Native)).expect_err("locked");
    assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
}

#[tokio::test]
async fn a_very_long_chain_is_loaded_and_dropped_without_recursion() {
    let home = Home::new(SnapshotterKind::Native);
    let store = &home.store;
    // Rows only: what matters is the shape.
    let mut ids = Vec::new();
    store
        .inner
        .db
        .update(|tx| {
            let mut parent = None;
            for _ in 0..20_000 {
                let id = RefId::fresh();
                let mut row =
                    crate::rows::RefRow::new(crate::rows::Kind::Layer { parent }, "", RecordType::Regular);
                row.snapshot = Some(rbuild_snapshot::SnapshotId::random());
                crate::rows::put_ref(tx, &id, &row)?;
                ids.push(id);
                parent = Some(id);
            }
            Ok(())
        })
        .expect("writes");
    let top = store.get(ids.last().expect("some")).expect("reads").expect("is there");
    assert_eq!(top.chain().len(), 20_000);
    assert!(top.is_loadable());
    drop(top);
    assert!(!store.inner.live.lock().is_live(&ids[0]));
}

#[tokio::test]
async fn root_a_chain_deeper_than_the_kernel_stacks_lies_over_flat_copies() {
    let home = Home::new(SnapshotterKind::Overlay);
    let mut tip = commit(&home.store, None, &[("first", Some("1")), ("gone", Some("1"))]).await;
    tip = commit(&home.store, Some(&tip), &[("gone", None)]).await;
    for _ in 0..crate::refs::MAX_STACKED + 10 {
        let new = home.store.new_mutable(Some(&tip), NewMutable::default()).await.expect("mutable");
        tip = new.commit().await.expect("commits");
    }
    tip = commit(&home.store, Some(&tip), &[("last", Some("2"))]).await;
    assert_eq!(files(&tip).await, ["first=1", "last=2"]);
    let id = tip.id();
    let depth = tip.node.depth();
    assert!(depth <= crate::refs::MAX_STACKED);
    drop(tip);
    let home = home.reopen(SnapshotterKind::Overlay);
    let tip = home.store.get(&id).expect("reads").expect("is there");
    assert_eq!(tip.node.depth(), depth);
    assert_eq!(files(&tip).await, ["first=1", "last=2"]);
    assert_eq!(tip.chain().len(), crate::refs::MAX_STACKED + 13, "layers stay what they are");
}

#[tokio::test]
async fn a_root_of_thousands_of_refs_opens_fast() {
    let home = Home::new(SnapshotterKind::Native);
    let core = &home.store.inner.core;
    core.db
        .update(|tx| {
            for _ in 0..3000 {
                let id = RefId::fresh();
                let kind = crate::rows::Kind::Layer { parent: None };
                let mut row = crate::rows::RefRow::new(kind, "RUN something", RecordType::Regular);
                row.snapshot = Some(rbuild_snapshot::SnapshotId::random());
                std::fs::create_dir_all(core.root.join("snapshots").join(id.as_str()).join("fs"))
                    .expect("makes");
                row.snapshot = Some(rbuild_snapshot::SnapshotId::parse(id.as_str())?);
                crate::rows::put_ref(tx, &id, &row)?;
            }
            Ok(())
        })
        .expect("writes");
    let begun = std::time::Instant::now();
    let home = home.reopen(SnapshotterKind::Native);
    println!("close and open: {:?}", begun.elapsed());
    assert_eq!(home.store.inner.db.scan(crate::db::Table::Refs, b"").expect("reads").len(), 3000);
}

#[tokio::test]
async fn small_values_are_kept_by_space() {
    let home = Home::new(SnapshotterKind::Native);
    home.store.kv_put("http", b"url", b"etag").await.expect("puts");
    home.store.kv_put("git", b"url", b"head").await.expect("puts");
    let home = home.reopen(SnapshotterKind::Native);
    assert_eq!(home.store.kv_get("http", b"url").expect("reads").as_deref(), Some(&b"etag"[..]));
    assert_eq!(home.store.kv_list("git").expect("lists"), [(b"url".to_vec(), b"head".to_vec())]);
    home.store.kv_delete("git", b"url").await.expect("deletes");
    assert_eq!(home.store.kv_get("git", b"url").expect("reads"), None);
}

#[tokio::test]
async fn root_a_step_s_tree_costs_little() {
    let home = Home::new(SnapshotterKind::Overlay);
    let base = commit(&home.store, None, &[("a", Some("1"))]).await;
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        let new = home.store.new_mutable(Some(&base), NewMutable::default()).await.expect("mutable");
        new.commit().await.expect("commits");
    }
    println!("new_mutable + commit: {:?}", begun.elapsed() / 100);
}
