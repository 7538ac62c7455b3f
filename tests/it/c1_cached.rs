use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn a_rebuild_with_nothing_changed_is_cached_even_after_a_restart() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("a", "1");
    space.write("Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a > /b\nWORKDIR /w\nRUN echo c > /c\n");
    daemon.build(space.path(), &["-t", "t"]).success();
    for restart in [false, true] {
        if restart {
            daemon.kill();
            daemon.restart();
        }
        let again = daemon.build(space.path(), &["-t", "t"]).success();
        for step in ["COPY a /a", "RUN cat /a", "WORKDIR /w", "RUN echo c"] {
            assert!(again.cached(step), "{step}: {}", again.all());
        }
    }
}

#[test]
fn no_cache_runs_everything_again() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox AS one\nRUN echo 1 > /1\nFROM one AS two\nRUN echo 2 > /2\n");
    daemon.build(space.path(), &[]).success();
    let again = daemon.build(space.path(), &["--no-cache"]).success();
    assert!(!again.cached("RUN echo 1") && !again.cached("RUN echo 2"));
    let filtered = daemon.build(space.path(), &["--no-cache-filter", "two"]).success();
    assert!(filtered.cached("RUN echo 1") && !filtered.cached("RUN echo 2"));
}
