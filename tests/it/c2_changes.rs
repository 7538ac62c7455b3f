use rbuild_tests::{TestDaemon, TestSpace, run};

#[test]
fn content_counts_and_nothing_else() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("c/Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a\nCOPY b /b\nRUN cat /b\n");
    space.write("c/a", "1").write("c/b", "1").write("c/.dockerignore", "ignored\n");
    daemon.build(&space.at("c"), &[]).success();
    let all_cached = |output: &rbuild_tests::TestOutput| {
        ["COPY a /a", "RUN cat /a", "COPY b /b", "RUN cat /b"].map(|step| output.cached(step)).to_vec()
    };
    run("touch", &["-d", "2001-01-01", &space.at("c/a").to_string_lossy()]).success();
    space.write("c/ignored", "x");
    assert_eq!(all_cached(&daemon.build(&space.at("c"), &[]).success()), [true; 4]);
    std::fs::rename(space.at("c"), space.at("elsewhere")).unwrap();
    assert_eq!(all_cached(&daemon.build(&space.at("elsewhere"), &[]).success()), [true; 4]);
    space.write("elsewhere/b", "2");
    assert_eq!(all_cached(&daemon.build(&space.at("elsewhere"), &[]).success()), [true, true, false, false]);
    run("chmod", &["700", &space.at("elsewhere/a").to_string_lossy()]).success();
    assert_eq!(all_cached(&daemon.build(&space.at("elsewhere"), &[]).success()), [false; 4]);
}
