use rbuild_tests::{TestDaemon, TestSpace};

fn space() -> TestSpace {
    let space = TestSpace::new();
    space.write("f", vec![b'x'; 50_000]);
    space.write("Dockerfile", "FROM busybox\nCOPY f /f\nRUN echo a line of output\n");
    space
}

#[test]
fn plain_progress_reads_like_upstream() {
    let daemon = TestDaemon::start();
    let space = space();
    let output = daemon.build(space.path(), &["-t", "p"]).success();
    for text in [
        "[internal] load build definition from Dockerfile",
        "transferring dockerfile:",
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[internal] load .dockerignore",
        "[internal] load build context",
        "transferring context: 50",
        "[1/3] FROM docker.io/library/busybox:latest@sha256:",
        "[2/3] COPY f /f",
        "[3/3] RUN echo a line of output",
        " a line of output",
        "exporting to image",
        "DONE 0.",
    ] {
        assert!(output.all().contains(text), "`{text}` is missing:\n{}", output.all());
    }
    assert_eq!(output.stdout, "", "progress belongs on stderr");
}

#[test]
fn rawjson_is_one_object_a_line_and_quiet_prints_the_id() {
    let daemon = TestDaemon::start();
    let space = space();
    let raw = daemon.ctl(space.path(), &["build", "--progress=rawjson", "."]).success();
    let lines: Vec<serde_json::Value> =
        raw.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["vertexes"].is_array()));
    let quiet = daemon.ctl(space.path(), &["build", "-q", "-t", "q", "."]).success();
    assert!(quiet.stdout.trim().starts_with("sha256:"), "{quiet:?}");
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_long_log_arrives_whole() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN seq 1 200000\n");
    let output = daemon.build(space.path(), &[]).success();
    let lines = output.step("RUN seq").iter().filter(|line| line.split(' ').count() == 3).count();
    assert!(output.all().contains(" 200000\n"), "the end is missing");
    assert!(lines >= 200_000, "{lines} lines of 200,000");
}
