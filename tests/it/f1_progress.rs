use rbuild_tests::{TestDaemon, TestSpace, binary, run};

/// `rbuildctl build` on a terminal of so many columns; what the terminal got.
fn on_terminal(daemon: &TestDaemon, context: &TestSpace, columns: usize, before: &str) -> String {
    let (client, addr, dir) = (binary("rbuildctl"), daemon.addr(), context.path().display());
    let build = format!("{} --addr {addr} build --progress=tty {dir}", client.display());
    let line = format!("export TERM=xterm; stty cols {columns} rows 12; {before} {build}");
    run("script", &["-qec", &line, "/dev/null"]).success().stdout
}

/// The lines of the live view, without what moves the cursor and colours.
fn lines(screen: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut chars = screen.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => drop(chars.by_ref().skip(1).find(char::is_ascii_alphabetic)),
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
        .lines()
        .map(str::to_owned)
        .filter(|line| line.starts_with(" =>") || line.starts_with("[+]"))
        .collect()
}

/// Whether the terminal got a sequence that ends so: `A` moves up, `m` colours.
fn sends(screen: &str, end: char) -> bool {
    let sequences = screen.split("\u{1b}[").skip(1);
    sequences.into_iter().any(|text| text.chars().find(|c| c.is_ascii_alphabetic()) == Some(end))
}

#[test]
fn the_live_view_redraws_in_place_and_fits_the_terminal() {
    let daemon = TestDaemon::start();
    let space = space();
    let wide = on_terminal(&daemon, &space, 100, "");
    assert!(sends(&wide, 'A') && sends(&wide, 'm'), "{wide:?}");
    assert!(lines(&wide).iter().any(|line| line.contains("=> [3/3] RUN echo a line of output")), "{wide}");
    let narrow = on_terminal(&daemon, &space, 24, "NO_COLOR=1");
    assert!(sends(&narrow, 'A'), "{narrow:?}");
    assert!(!sends(&narrow, 'm'), "colours although NO_COLOR is set: {narrow:?}");
    let shown = lines(&narrow);
    assert!(shown.iter().any(|line| line.contains("[+] Building")), "{narrow}");
    for line in shown {
        assert!(line.chars().count() <= 24, "`{line}` does not fit");
    }
}

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
