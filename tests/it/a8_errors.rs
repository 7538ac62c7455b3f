use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn parse_errors_name_line_and_suggestion() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    for (dockerfile, wanted) in [
        ("FORM busybox\n", &["line 1", "unknown instruction: FORM", "did you mean FROM"][..]),
        ("FROM busybox\nRUM echo\n", &["line 2", "RUM", "did you mean RUN", "Dockerfile:2"]),
        ("FROM busybox\nCOPY --form=x a b\n", &["form", "did you mean", "from"]),
        ("RUN true\n", &["no build stage"]),
        ("FROM busybox\nCOPY --from=nothere:9 /a /b\n", &["nothere"]),
        ("FROM ${BASE}\n", &["base name", "Dockerfile:1"]),
        ("", &["empty"]),
    ] {
        space.write("Dockerfile", dockerfile);
        let output = daemon.build(space.path(), &[]).failure();
        for text in wanted {
            assert!(
                output.all().to_lowercase().contains(&text.to_lowercase()),
                "`{text}` is missing for {dockerfile:?}:\n{}",
                output.all()
            );
        }
    }
}

#[test]
fn a_failing_script_of_any_size_is_told_with_its_exit_code() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let script = "echo a line of a long script > /dev/null\n".repeat(2_000);
    space.write("Dockerfile", format!("FROM busybox\nRUN <<EOF\n{script}exit 42\nEOF\n"));
    let output = daemon.build(space.path(), &[]).failure();
    output.has("did not complete").has("exit code: 42");
}

#[test]
fn a_failing_step_shows_excerpt_code_and_log_and_leaves_no_tag() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\n\nRUN echo about to fail && exit 42\n");
    let output = daemon.build(space.path(), &["-t", "test:broken"]).failure();
    let output = output.has("Dockerfile:3").has("exit code: 42").has("about to fail").has(">>> RUN echo");
    assert_eq!(output.code, Some(1));
    let images = daemon.ctl(space.path(), &["images"]).success();
    assert!(!images.all().contains("test"), "{}", images.all());
}

#[test]
fn a_required_argument_that_is_not_set_says_so() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nARG V\nENV W=\"${V:?set the version}\"\n");
    daemon.build(space.path(), &[]).failure().has("V: set the version");
}

#[test]
fn a_missing_file_in_the_context_is_named() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY nosuch /\n");
    let output = daemon.build(space.path(), &[]).failure().has("/nosuch").has("not found");
    let step = output.step("[1/1] COPY nosuch /");
    assert!(step.iter().any(|line| line.contains("ERROR")), "{}", output.all());
}
