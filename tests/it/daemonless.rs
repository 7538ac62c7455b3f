use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rbuild_tests::{TestOutput, TestSpace, binary};

/// `rbuildctl build` with nobody to talk to, its state below `home`.
fn client(home: &Path, context: &Path) -> Command {
    let mut command = Command::new(binary("rbuildctl"));
    command.args(["build", "--progress=plain", "."]).current_dir(context);
    command
        .env_remove("RBUILD_HOST")
        .env_remove("BUILDKIT_HOST")
        .env_remove("XDG_STATE_HOME")
        .env("HOME", home);
    command.env("TMPDIR", home).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Processes whose command line contains `text`.
fn processes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(line);
        }
    }
    found
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn busybox_context(step: &str) -> TestSpace {
    let space = TestSpace::new();
    space.write("sh", std::fs::read("/bin/busybox").unwrap());
    space.write("Dockerfile", format!("FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN {step}\n"));
    space
}

#[test]
fn the_daemon_of_buildctl_is_ours_too_unless_another_is_named() {
    let home = TestSpace::new();
    let context = busybox_context("true");
    let nobody = format!("unix://{}/nobody.sock", home.path().display());
    let output = client(home.path(), context.path()).env("BUILDKIT_HOST", &nobody).output().unwrap();
    let output = TestOutput::new("rbuildctl build".into(), &output).failure();
    assert!(output.all().contains("nobody.sock"), "{}", output.all());
    let mut other = client(home.path(), context.path());
    let other = other.env("BUILDKIT_HOST", "unix:///x").env("RBUILD_HOST", &nobody).output().unwrap();
    assert!(TestOutput::new("rbuildctl build".into(), &other).failure().all().contains("nobody.sock"));
}

#[test]
fn a_build_without_a_daemon_starts_one_and_leaves_nothing_running() {
    let home = TestSpace::new();
    let context = busybox_context("true");
    let output = client(home.path(), context.path()).output().unwrap();
    let output = TestOutput::new("rbuildctl build".into(), &output).success();
    let notes = output.all().lines().filter(|line| line.contains("private rbuildd")).count();
    assert_eq!(notes, 1, "{}", output.all());
    let text = home.path().to_string_lossy().into_owned();
    assert_eq!(processes(&text), Vec::<String>::new());
    let again = client(home.path(), context.path()).output().unwrap();
    assert!(TestOutput::new("again".into(), &again).success().cached("RUN true"));
}

#[test]
fn a_private_daemon_ends_with_its_client_however_that_ends() {
    let home = TestSpace::new();
    let text = home.path().to_string_lossy().into_owned();
    for (index, signal) in
        [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT].iter().enumerate()
    {
        // Seconds that no other test sleeps for.
        let marker = format!("sleep 98765{index}");
        let context = busybox_context(&marker);
        let mut child = client(home.path(), context.path()).spawn().unwrap();
        let steps = || processes(&marker).iter().filter(|line| line.starts_with("sleep")).count();
        until("the step runs", || steps() > 0);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), *signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal().is_some(), *signal == Signal::SIGKILL, "{signal}: {status}");
        assert!(!status.success());
        until("the step is gone", || steps() == 0);
        until("the daemon is gone", || processes(&text).is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&text), "{signal} left mounts:\n{mounts}");
    }
}

#[test]
fn ssh_addresses_reach_the_socket_that_they_name() {
    let daemon = rbuild_tests::TestDaemon::start();
    let space = TestSpace::new();
    // An `ssh` that runs what it is told here, as a login shell would.
    space.write("ssh", "#!/bin/sh\nshift\necho \"$1\" > \"$0.host\"\nshift\nexec sh -c \"$*\"\n");
    space.write("rbuildctl", format!("#!/bin/sh\nexec {} \"$@\"\n", binary("rbuildctl").display()));
    for name in ["ssh", "rbuildctl"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(space.at(name), mode).unwrap();
    }
    let path = format!("{}:{}", space.path().display(), std::env::var("PATH").unwrap());
    let address = daemon.addr().replace("unix://", "ssh://me@there");
    let output = Command::new(binary("rbuildctl"))
        .args(["--addr", &address, "debug", "workers"])
        .env("PATH", path)
        .output()
        .unwrap();
    TestOutput::new("rbuildctl over ssh".into(), &output).success().has("linux/amd64");
    assert_eq!(std::fs::read_to_string(space.at("ssh.host")).unwrap(), "me@there\n");
}
