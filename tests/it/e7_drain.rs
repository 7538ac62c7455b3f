use std::time::Duration;

use rbuild_tests::{TestDaemon, TestOutput, TestSpace};

#[test]
fn sigterm_lets_running_builds_finish_and_refuses_new_ones() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo begun && sleep 2 && echo ended > /e\n");
    let first = daemon.client(space.path(), &["build", "--progress=plain", "."]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(900));
    daemon.terminate();
    std::thread::sleep(Duration::from_millis(200));
    let refused = daemon.build(space.path(), &["--no-cache"]).failure();
    assert!(!refused.all().contains("begun"), "{}", refused.all());
    let output = TestOutput::new("the first build".into(), &first.wait_with_output().unwrap());
    let output = output.success();
    assert!(output.all().contains("DONE"), "{}", output.all());
    assert_eq!(daemon.wait(Duration::from_secs(20)), Some(0));
}

#[test]
fn an_idle_daemon_ends_at_once() {
    let mut daemon = TestDaemon::start();
    daemon.terminate();
    assert_eq!(daemon.wait(Duration::from_secs(5)), Some(0));
}
