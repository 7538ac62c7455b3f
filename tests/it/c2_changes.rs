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

/// A Dockerfile with a stage for each step, that all depend on the context alone.
fn stages(steps: &[&str]) -> String {
    let stages = steps.iter().map(|step| format!("FROM scratch\n{step}\n")).collect::<String>();
    let copies = (0..steps.len()).map(|at| format!("COPY --from={at} / /{at}\n")).collect::<String>();
    format!("{stages}FROM scratch\n{copies}")
}

/// Which of the steps are cached when these files are in the context as well.
fn cached_with<const N: usize>(
    daemon: &TestDaemon,
    space: &TestSpace,
    added: &[&str],
    steps: [&str; N],
) -> [bool; N] {
    space.write("Dockerfile", stages(&steps));
    for path in added {
        space.write(path, "x");
    }
    let output = daemon.build(space.path(), &[]).success();
    steps.map(|step| output.cached(step))
}

#[test]
fn files_that_a_copy_does_not_take_do_not_count() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let steps = ["COPY --exclude=*.log d /d", "COPY d/a* /w/"];
    assert_eq!(cached_with(&daemon, &space, &["d/a1"], steps), [false; 2]);
    assert_eq!(cached_with(&daemon, &space, &["d/new.log"], steps), [true; 2]);
    assert_eq!(cached_with(&daemon, &space, &["d/a2"], steps), [false; 2]);
    assert_eq!(cached_with(&daemon, &space, &["d/b"], steps), [false, true]);
}

#[test]
fn nested_excludes_with_exceptions_and_parents_count_what_they_take() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let steps = ["COPY --exclude=**/*.log --exclude=!**/keep.log d /d", "COPY --parents d/*/in.txt /p/"];
    assert_eq!(cached_with(&daemon, &space, &["d/one/in.txt", "d/one/deep/f"], steps), [false; 2]);
    assert_eq!(cached_with(&daemon, &space, &["d/one/deep/new.log"], steps), [true; 2]);
    assert_eq!(cached_with(&daemon, &space, &["d/one/deep/keep.log"], steps), [false, true]);
    assert_eq!(cached_with(&daemon, &space, &["d/two/in.txt"], steps), [false; 2]);
}
