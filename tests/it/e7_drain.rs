use std::time::Duration;

use rbuild_tests::{Running, TestDaemon, TestSpace, wait_until};

#[test]
fn sigterm_lets_running_builds_finish_and_refuses_new_ones() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo begun && sleep 4 && echo ended > /e\n");
    let first = Running::start(daemon.client(space.path(), &["build", "--progress=plain", "."]));
    first.wait_for(" begun\n");
    daemon.terminate();
    wait_until("the daemon drains", || daemon.log().contains("waiting for running builds"));
    let refused = daemon.build(space.path(), &["--no-cache"]).failure();
    assert!(!refused.all().contains("begun"), "{}", refused.all());
    first.end().success().has("DONE");
    assert_eq!(daemon.wait(Duration::from_secs(60)), Some(0));
}

#[test]
fn an_idle_daemon_ends_at_once() {
    let mut daemon = TestDaemon::start();
    daemon.terminate();
    assert_eq!(daemon.wait(Duration::from_secs(60)), Some(0));
}
