//! Importing a cache never makes a build slower, and exporting one need not.

use std::net::TcpListener;
use std::time::Duration;

use rbuild_tests::{TestDaemon, TestS3, TestSpace, wait_until};

fn project() -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo one > /one\nRUN echo two\n");
    space
}

/// Ways to places that take connections and never answer.
fn silent(listener: &TcpListener) -> [String; 3] {
    let host = listener.local_addr().unwrap();
    let token = "h.eyJhYyI6ICJbe1wiU2NvcGVcIjogXCJ4XCIsIFwiUGVybWlzc2lvblwiOiAzfV0ifQ.x";
    [
        format!("type=registry,ref={host}/c11/silent:1"),
        format!("type=s3,bucket=b,region=r,endpoint_url=http://{host},access_key_id=a,secret_access_key=b"),
        format!("type=gha,url=http://{host}/,token={token}"),
    ]
}

#[test]
fn a_build_that_needs_nothing_from_a_silent_cache_does_not_wait_for_it() {
    let space = project();
    let daemon = TestDaemon::start();
    daemon.build(space.path(), &[]).success();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for from in silent(&listener) {
        let built = daemon.build(space.path(), &["--cache-from", &from]).success();
        assert!(built.cached("RUN echo two"), "{}", built.all());
        // It would have been given up after a while.
        assert!(!built.all().contains("failed to import"), "{}", built.all());
    }
}

#[test]
fn silent_caches_are_given_up_side_by_side_and_the_steps_run() {
    let space = project();
    let daemon = TestDaemon::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut args = Vec::new();
    let all = silent(&listener);
    for from in &all {
        args.extend(["--cache-from", from]);
    }
    let built = daemon.build(space.path(), &args).success();
    assert_eq!(built.all().matches("did not answer within 10 s").count(), 3, "{}", built.all());
    assert!(!built.cached("RUN echo two"));
}

#[test]
fn an_export_in_the_background_does_not_hold_back_the_result() {
    let (space, s3) = (project(), TestS3::start());
    let daemon = TestDaemon::start();
    s3.hold(true);
    // It would wait for ever, if it waited.
    let to = format!("{},mode=max,background=true", s3.cache("later"));
    let built = daemon.build(space.path(), &["--cache-to", &to]).success();
    assert!(built.all().contains("goes on in the background"), "{}", built.all());
    assert!(!s3.bucket().join("manifests/later").exists());
    s3.hold(false);
    wait_until("the cache is exported", || s3.bucket().join("manifests/later").exists());
    let built = TestDaemon::start().build(space.path(), &["--cache-from", &s3.cache("later")]).success();
    assert!(built.cached("RUN echo two"), "{}", built.all());
    for to in ["type=inline,background=true", "type=local,dest=x,background=true"] {
        let refused = daemon.build(space.path(), &["--cache-to", to]).failure();
        assert!(refused.all().contains("background"), "{}", refused.all());
    }
}

#[test]
fn a_drain_waits_for_exports_in_the_background() {
    let (space, s3) = (project(), TestS3::start());
    let mut daemon = TestDaemon::start();
    s3.hold(true);
    let to = format!("{},mode=max,background=true", s3.cache("drain"));
    daemon.build(space.path(), &["--cache-to", &to]).success();
    daemon.terminate();
    wait_until("the daemon drains", || daemon.log().contains("waiting for running builds"));
    s3.hold(false);
    assert_eq!(daemon.wait(Duration::from_secs(60)), Some(0));
    assert!(s3.bucket().join("manifests/drain").exists());
}
