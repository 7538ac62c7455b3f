//! What hits and what misses, with real trees.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use rbuild_llb::{CopyAction, FileActions, MkfileAction, MountOptions, State};

use crate::fixture::{Fixture, busybox, read, sh};

fn tree(files: &[(&'static str, &'static str)]) -> State {
    let actions = files.iter().fold(FileActions::new(), |actions, (path, data)| {
        let data = Bytes::from_static(data.as_bytes());
        actions.mkfile(MkfileAction {
            path: (*path).into(),
            mode: 0o644,
            data,
            timestamp_ns: Some(0),
            ..Default::default()
        })
    });
    State::scratch().file(actions, Default::default())
}

const STAMP: &str = "date +%s > /stamp; cat /proc/sys/kernel/random/uuid >> /stamp";

#[tokio::test(flavor = "multi_thread")]
async fn root_a_second_build_runs_nothing() {
    let fixture = Fixture::new();
    let state = busybox().run(sh(STAMP)).root();
    let first = fixture.read(&state, "stamp").await;
    assert_eq!(fixture.read(&state, "stamp").await, first);
    assert_eq!(fixture.fetched.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_two_builds_at_once_share_a_step() {
    let fixture = Fixture::new();
    let state = busybox().run(sh(&format!("sleep 0.3; {STAMP}"))).root();
    let (one, two) = tokio::join!(fixture.read(&state, "stamp"), fixture.read(&state, "stamp"));
    assert_eq!(one, two);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_copy_is_found_by_the_content_it_copies() {
    let fixture = Fixture::new();
    let step = |context: &State| {
        let copy =
            CopyAction { src: "/f".into(), dest: "/f".into(), create_dest_path: true, ..Default::default() };
        busybox().file(FileActions::new().copy(context, copy), Default::default()).run(sh(STAMP)).root()
    };
    let first = fixture.read(&step(&tree(&[("/f", "same")])), "stamp").await;
    let other_file = fixture.read(&step(&tree(&[("/f", "same"), ("/ignored", "x")])), "stamp").await;
    assert_eq!(first, other_file);
    let changed = fixture.read(&step(&tree(&[("/f", "changed")])), "stamp").await;
    assert_ne!(first, changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_read_only_mount_is_found_by_what_it_shows() {
    let fixture = Fixture::new();
    let step = |context: &State, selector: &str| {
        let mut exec = sh(STAMP);
        let (selector, readonly) = (selector.to_owned(), true);
        exec.mounts = vec![MountOptions { selector, readonly, ..MountOptions::bind("/m", context.clone()) }];
        busybox().run(exec).root()
    };
    let first = fixture.read(&step(&tree(&[("/f", "same")]), "/f"), "stamp").await;
    let beside = fixture.read(&step(&tree(&[("/f", "same"), ("/g", "x")]), "/f"), "stamp").await;
    assert_eq!(first, beside);
    let changed = fixture.read(&step(&tree(&[("/f", "changed")]), "/f"), "stamp").await;
    assert_ne!(first, changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_merge_and_diff_are_made_of_what_they_name() {
    let fixture = Fixture::new();
    let (a, b) = (tree(&[("/a", "A")]), tree(&[("/b", "B")]));
    let merged = State::merge(&[a, b], Default::default());
    let build = fixture.build();
    let done = build.solve(&merged).await.unwrap();
    assert_eq!((read(&done, "a").await, read(&done, "b").await), ("A".to_owned(), "B".to_owned()));
    let base = busybox();
    let upper = base.run(sh("echo new > /new")).root();
    let done = build.solve(&State::diff(&base, &upper, Default::default())).await.unwrap();
    assert_eq!(read(&done, "new").await, "new\n");
    assert!(!done.tree().await.unwrap().root().exists("bin/busybox").unwrap());
    build.end().await;
}
