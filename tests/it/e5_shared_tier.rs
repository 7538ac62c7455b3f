//! Daemons that share a cache at all times: what one built, the others do not build again.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use rbuild_tests::{DaemonOptions, TestDaemon, TestOutput, TestS3, TestSpace, wait_until};

const STEPS: [&str; 5] =
    ["COPY x.txt", "RUN cat /x.txt", "RUN echo one", "COPY --from=build", "RUN echo last"];

fn project(text: &str) -> TestSpace {
    let space = TestSpace::new();
    space.write("x.txt", text);
    space.write(
        "Dockerfile",
        "FROM busybox AS build\nCOPY x.txt /\nRUN cat /x.txt > /y && echo $RANDOM > /random\n\
         FROM busybox\nRUN echo one\nCOPY --from=build /y /random /\nRUN echo last\n",
    );
    space
}

fn daemon(tier: &str) -> TestDaemon {
    TestDaemon::start_with(DaemonOptions { config: format!("[cache.tier]\n{tier}\n"), ..Default::default() })
}

/// Builds, and gives what step `random` wrote.
fn build(daemon: &TestDaemon, space: &TestSpace) -> (TestOutput, TestSpace) {
    daemon.build_to_dir(space.path(), &[])
}

/// Ends it in order, so that all is written.
fn drain(mut daemon: TestDaemon) {
    daemon.terminate();
    assert_eq!(daemon.wait(Duration::from_secs(120)), Some(0), "{}", daemon.log());
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[track_caller]
fn all_cached(built: &TestOutput) {
    for step in STEPS {
        assert!(built.cached(step), "{step} ran: {}", built.all());
    }
}

#[test]
fn what_one_daemon_built_another_has_as_cached() {
    let (space, s3) = (project("x"), TestS3::start());
    let first = daemon(&s3.settings());
    let random = build(&first, &space).1.read("random");
    drain(first);
    let second = daemon(&s3.settings());
    let (built, out) = build(&second, &space);
    all_cached(&built);
    assert_eq!(out.read("random"), random);
    // What the second adds, a third finds, and what changed runs.
    space.write("Dockerfile", format!("{}RUN echo new\n", space.read("Dockerfile")));
    let (built, _) = build(&second, &space);
    assert!(!built.cached("RUN echo new"));
    drain(second);
    let third = daemon(&s3.settings());
    let (built, _) = build(&third, &space);
    all_cached(&built);
    assert!(built.cached("RUN echo new"), "{}", built.all());
    space.write("x.txt", "changed");
    let (built, out) = build(&third, &space);
    assert!(!built.cached("RUN cat /x.txt") && built.cached("RUN echo one"), "{}", built.all());
    assert_eq!(out.read("y"), "changed");
    assert!(!third.log().contains("hush/hush"), "keys are in the log");
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_leaves_nothing_that_misleads() {
    let s3 = TestS3::start();
    for round in 0..4 {
        let space = project(&format!("round {round}"));
        let mut first = daemon(&s3.settings());
        let records = s3.bucket().join("manifests/keys-v1");
        let before = files(&records).len();
        build(&first, &space);
        // After so many records, in the middle of writing the next.
        wait_until("records are written", || files(&records).len() > before + round);
        first.kill();
        let second = daemon(&s3.settings());
        let (_, out) = build(&second, &space);
        assert_eq!(out.read("y"), format!("round {round}"));
        drain(second);
        let (built, out) = build(&daemon(&s3.settings()), &space);
        all_cached(&built);
        assert_eq!(out.read("y"), format!("round {round}"));
    }
}

#[test]
fn torn_records_and_missing_blobs_are_misses() {
    let (space, s3) = (project("x"), TestS3::start());
    let first = daemon(&s3.settings());
    build(&first, &space);
    drain(first);
    let records = files(&s3.bucket().join("manifests/keys-v1"));
    assert!(records.len() > STEPS.len());
    for record in records.iter().step_by(2) {
        std::fs::write(record, "{\"record\":").unwrap();
    }
    let (_, out) = build(&daemon(&s3.settings()), &space);
    assert_eq!(out.read("y"), "x");
    std::fs::remove_dir_all(s3.bucket().join("blobs")).unwrap();
    let (built, out) = build(&daemon(&s3.settings()), &space);
    assert_eq!(out.read("y"), "x");
    assert!(!built.cached("RUN cat /x.txt"), "{}", built.all());
}

#[test]
fn a_dead_tier_is_waited_for_once() {
    let space = project("x");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let tier = format!(
        "type = \"s3\"\nbucket = \"b\"\nregion = \"r\"\nendpoint_url = \"http://{}\"",
        silent.local_addr().unwrap()
    );
    let daemon = daemon(&tier);
    build(&daemon, &space);
    build(&daemon, &project("other"));
    assert_eq!(daemon.log().matches("the shared cache fails").count(), 1, "{}", daemon.log());
}

#[test]
fn settings_that_make_no_sense_end_the_daemon_with_their_name() {
    let space = TestSpace::new();
    for (tier, word) in [
        ("type = \"ftp\"", "ftp"),
        ("bucket = \"b\"", "type"),
        ("type = \"s3\"\nregion = \"r\"", "bucket"),
        ("type = \"s3\"\nbucket = \"b\"\nregion = \"r\"\nwhat = 1", "what"),
    ] {
        space.write("c.toml", format!("[cache.tier]\n{tier}\n"));
        let (root, config) = (space.at("root"), space.at("c.toml"));
        let addr = format!("unix://{}", space.at("s").display());
        let args = ["--root", root.to_str().unwrap(), "--config", config.to_str().unwrap(), "--addr", &addr];
        let program = rbuild_tests::binary("rbuildd");
        let ended = rbuild_tests::run(program.to_str().unwrap(), &args).failure();
        assert!(ended.all().contains(word) && ended.all().contains("[cache.tier]"), "{}", ended.all());
    }
}
