use std::io::Read as _;
use std::process::Stdio;

use rbuild_digest::Hasher;
use rbuild_tests::{TestDaemon, TestSpace};

/// Bytes that the step prints; a multiple of a line's length.
const BYTES: u64 = 200_000_000;
const LINE: &str = "the quick brown fox jumps over the lazy dog: 50 b\n";

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn slow_200_mb_of_output_are_kept_to_the_last_byte_in_flat_memory() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let words = LINE.trim_end();
    space.write("Dockerfile", format!("FROM busybox\nRUN yes '{words}' | head -c {BYTES}\n"));
    daemon.ctl(space.path(), &["build", "-q", "."]).success();
    let before = rss_kib(daemon.pid());
    daemon.ctl(space.path(), &["build", "-q", "--no-cache", "."]).success();
    let after = rss_kib(daemon.pid());
    assert!(after < before + 32 * 1024, "{before} KiB before, {after} KiB after another 200 MB");

    let mut logs =
        daemon.client(space.path(), &["history", "logs", "--raw"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = logs.stdout.take().unwrap();
    let (mut found, mut count) = (Hasher::new(), 0);
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = out.read(&mut chunk).unwrap();
        if read == 0 {
            break;
        }
        found.update(&chunk[..read]);
        count += read as u64;
    }
    assert!(logs.wait().unwrap().success());
    let mut expected = Hasher::new();
    for _ in 0..BYTES / LINE.len() as u64 {
        expected.update(LINE);
    }
    assert_eq!(count, BYTES);
    assert_eq!(found.finish(), expected.finish());
}

#[test]
fn a_log_file_keeps_the_plain_output_whatever_is_shown() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN seq 1 20000\n");
    space.write(".dockerignore", "*.log\n");
    let build = |args: &[&str]| daemon.ctl(space.path(), &[&["build", "--no-cache"], args, &["."]].concat());
    let shown = build(&["--progress=quiet", "--log-file", "b.log"]).success();
    assert_eq!(shown.stderr, "");
    let log = space.read("b.log");
    let is_output = |line: &&str| {
        let words: Vec<_> = line.split(' ').collect();
        matches!(words[..], [_, _, number] if number.parse::<u32>().is_ok())
    };
    assert_eq!(log.lines().filter(is_output).count(), 20_000);
    assert!(log.contains("[2/2] RUN seq 1 20000") && log.contains("\nbuilt "), "{log}");
    // A build that fails has one too, and a log that cannot be kept is told.
    space.write("Dockerfile", "FROM busybox\nRUN echo why; false\n");
    build(&["--progress=quiet", "--log-file", "b.log"]).failure();
    assert!(space.read("b.log").contains(" why\n") && !space.read("b.log").contains("seq"));
    space.write("Dockerfile", "FROM busybox\n");
    build(&["--log-file", "nosuch/b.log"])
        .failure()
        .has("error[U007]: --log-file nosuch/b.log: no such file");
    build(&["--log-file", "/dev/full"]).failure().has("error[U007]: --log-file /dev/full: no space left");
}
