//! D6: processes in images, with the terminal in front of them.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn an_image_from_the_store_runs_with_its_own_settings() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "FROM busybox\nENV GREETING=hello\nWORKDIR /work\nUSER user\nENTRYPOINT [\"sh\", \"-c\"]\n\
         CMD [\"echo $GREETING from $(pwd) as $(id -un)\"]\n",
    );
    daemon.build(space.path(), &["-t", "test:run"]).success();
    let output = daemon.ctl(space.path(), &["run", "test:run"]).success();
    assert_eq!(output.stdout, "hello from /work as user\n");
    let args = ["run", "-e", "GREETING=bye", "-w", "/tmp", "-u", "0", "--hostname", "there", "test:run"];
    let output =
        daemon.ctl(space.path(), &[&args[..], &["echo $GREETING $(pwd) $(id -u) $(hostname)"]].concat());
    assert_eq!(output.success().stdout, "bye /tmp 0 there\n");
}

#[test]
fn the_exit_code_is_that_of_the_process() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let run = |command: &str| daemon.ctl(space.path(), &["run", "busybox", "sh", "-c", command]);
    let output = run("echo out; echo err >&2; exit 7").failure();
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(7), "out\n", "err\n"));
    assert_eq!(
        run("kill -9 $$; exit 3").code,
        Some(3),
        "a namespace's first process is not killed from inside"
    );
    daemon.ctl(space.path(), &["run", "busybox", "/nosuch"]).failure().has("/nosuch");
}

#[test]
fn standard_input_is_passed_on_only_if_asked_for() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("input", "line\n".repeat(50_000));
    let input = || std::fs::File::open(space.at("input")).unwrap();
    let output = daemon.ctl_with(space.path(), &["run", "-i", "busybox", "wc", "-l"], input()).success();
    assert_eq!(output.stdout, "50000\n");
    let output = daemon.ctl_with(space.path(), &["run", "busybox", "wc", "-l"], input()).success();
    assert_eq!(output.stdout, "0\n");
}

#[test]
fn a_conversation_goes_both_ways() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let mut command = daemon.client(space.path(), &["run", "-i", "busybox", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for word in ["ping", "pong"] {
        stdin.write_all(word.as_bytes()).unwrap();
        let mut echo = [0; 4];
        stdout.read_exact(&mut echo).unwrap();
        assert_eq!(echo, word.as_bytes());
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn writes_go_away_except_in_named_volumes() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("dir/file", "mine");
    let run = |args: &[&str]| daemon.ctl(space.path(), &[&["run"], args].concat());
    run(&["-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/f; echo lost > /f"]).success();
    let args = ["-v", "data:/data", "-v", "./dir:/dir:ro", "busybox", "sh", "-c"];
    let output = run(&[&args[..], &["cat /data/f /dir/file; test ! -e /f"]].concat()).success();
    assert_eq!(output.stdout, "kept\nmine");
    run(&["-v", "./dir:/dir:ro", "busybox", "touch", "/dir/x"]).failure().has("Read-only file system");
    let output = run(&["-v", "./dir:/dir", "busybox", "true"]).failure();
    assert_eq!(output.code, Some(2));
    output.has("it cannot write to it");
    run(&["--read-only", "busybox", "touch", "/x"]).failure().has("Read-only file system");
}

#[test]
fn what_the_sandbox_does_not_give_needs_a_grant() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    daemon.ctl(space.path(), &["run", "--network", "host", "busybox", "true"]).failure().has("network.host");
    daemon.ctl(space.path(), &["run", "--network", "none", "busybox", "true"]).success();
}
