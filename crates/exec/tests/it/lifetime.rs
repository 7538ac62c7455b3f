//! Beginnings and ends: cancel, drop, death of the daemon, many at once.

use std::time::Duration;

use rbuild_exec::{ExecError, Output, ProcessIo, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{Place, Text};

/// Longer than any test should need; only a failing one waits for it.
const LONG: Duration = Duration::from_secs(20);

/// Pids of processes of the host that carry `mark` in their command line.
fn running(mark: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|cmdline| String::from_utf8_lossy(cmdline).contains(mark))
        .count()
}

async fn gone(mark: &str) {
    tokio::time::timeout(LONG, async {
        while running(mark) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{mark} still runs"));
}

fn started_io() -> (ProcessIo, tokio::sync::oneshot::Receiver<()>) {
    let (tx, rx) = tokio::sync::oneshot::channel();
    (ProcessIo { started: Some(tx), ..ProcessIo::default() }, rx)
}

#[tokio::test]
async fn root_cancel_kills_everything_and_says_so() {
    let place = Place::new();
    let script =
        "trap '' TERM INT; setsid sleep 7101 & setsid sh -c 'trap \"\" TERM; sleep 7101' & sleep 7101";
    let cancel = CancellationToken::new();
    let (io, started) = started_io();
    let stop = async {
        started.await.unwrap();
        while running("7101") < 3 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let run = place.runtime.run(place.script(script), io, cancel.clone());
    let (outcome, ()) = tokio::time::timeout(LONG, async { tokio::join!(run, stop) }).await.unwrap();
    assert!(matches!(outcome, Err(ExecError::Cancelled)), "{outcome:?}");
    assert_eq!(running("7101"), 0, "it returns only when all are gone");
    place.sh("true").await.ok();
}

#[tokio::test]
async fn root_dropping_the_future_kills() {
    let place = Place::new();
    let (io, started) = started_io();
    {
        let run = place.runtime.run(place.script("sleep 7102"), io, CancellationToken::new());
        tokio::pin!(run);
        tokio::select! {
            done = &mut run => panic!("{done:?}"),
            started = started => started.unwrap(),
        }
    }
    gone("7102").await;
}

#[tokio::test]
async fn root_dropping_the_runtime_kills_and_waits() {
    let place = Place::new();
    let (io, started) = started_io();
    let runtime = place.runtime.clone();
    let spec = place.script("sleep 7103");
    let task = tokio::spawn(async move { runtime.run(spec, io, CancellationToken::new()).await });
    started.await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    tokio::task::spawn_blocking(move || drop(place)).await.unwrap();
    gone("7103").await;
}

#[tokio::test]
async fn root_a_background_process_does_not_hold_the_step() {
    let place = Place::new();
    let done = tokio::time::timeout(LONG, place.sh("(sleep 7104; echo late) & echo early")).await.unwrap();
    assert_eq!(done.ok(), "early\n");
    assert_eq!(running("7104"), 0);
}

#[tokio::test]
async fn root_a_dead_helper_is_told_and_replaced() {
    let place = Place::new();
    place.sh("true").await.ok();
    let (io, started) = started_io();
    let run = place.runtime.run(place.script("sleep 7105; true"), io, CancellationToken::new());
    let kill = async {
        started.await.unwrap();
        while running("7105") < 2 {
            tokio::task::yield_now().await;
        }
        let helper = helper_of(std::process::id(), "7105");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(helper), nix::sys::signal::SIGKILL).unwrap();
    };
    let (outcome, ()) = tokio::time::timeout(LONG, async { tokio::join!(run, kill) }).await.unwrap();
    assert!(matches!(outcome, Err(ExecError::HelperGone)), "{outcome:?}");
    gone("7105").await;
    place.sh("true").await.ok();
}

/// The child of `daemon` that is the parent of a process with `mark` in its command line.
fn helper_of(daemon: u32, mark: &str) -> i32 {
    let stat = |pid: &str, field: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|l| l.strip_prefix(field)?.trim().parse::<u32>().ok())
    };
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().into_string().unwrap();
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&cmdline).contains(mark)
            && let Some(parent) = stat(&pid, "PPid:")
            && stat(&parent.to_string(), "PPid:") == Some(daemon)
        {
            return i32::try_from(parent).unwrap();
        }
    }
    panic!("no step with {mark}");
}

/// Run by the test below in a process of its own.
#[tokio::test]
async fn root_daemon_that_is_killed() {
    if std::env::var_os("RBUILD_TEST_VICTIM").is_none() {
        return;
    }
    let place = Place::new();
    place.run(place.script("trap '' TERM; sleep 7106; true")).await.unwrap();
}

#[tokio::test]
async fn root_steps_die_with_the_daemon() {
    let mut daemon = std::process::Command::new("/proc/self/exe")
        .args(["--exact", "lifetime::root_daemon_that_is_killed"])
        .env("RBUILD_TEST_VICTIM", "1")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::timeout(LONG, async {
        while running("7106") < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    gone("7106").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_many_steps_run_at_once() {
    let place = std::sync::Arc::new(Place::new());
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..40 {
        let place = place.clone();
        tasks.spawn(async move {
            let (upper, work) = (place.path(&format!("u{i}")), place.path(&format!("w{i}")));
            std::fs::create_dir(&upper).unwrap();
            std::fs::create_dir(&work).unwrap();
            let root = rbuild_sys::Mount::Overlay {
                lower: vec![place.path("base")],
                upper: Some(upper),
                work: Some(work),
                volatile: true,
            };
            let spec = rbuild_exec::ProcessSpec::new(root, ["/bin/sh", "-c", &format!("echo {i}; exit {i}")]);
            let done = place.run(spec).await.unwrap();
            assert_eq!((done.out.trim(), done.status.exit_code()), (i.to_string().as_str(), i));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn root_signals_reach_the_program() {
    let place = Place::new();
    let out = Text::default();
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let io = ProcessIo { stdout: out.sink(), signals: Some(rx), ..ProcessIo::default() };
    let script = "trap 'echo caught; exit 5' USR1; echo ready; while true; do sleep 0.01; done";
    let send = async {
        while !String::from_utf8_lossy(&out.0.lock().unwrap()).contains("ready") {
            tokio::task::yield_now().await;
        }
        tx.send(10).await.unwrap();
    };
    let run = place.runtime.run(place.script(script), io, CancellationToken::new());
    let (status, ()) = tokio::time::timeout(LONG, async { tokio::join!(run, send) }).await.unwrap();
    assert_eq!(status.unwrap().exit_code(), 5);
    assert_eq!(out.take(), "ready\ncaught\n");
}

#[tokio::test]
async fn root_a_failing_sink_is_an_error_after_the_end() {
    let place = Place::new();
    let (sink, gone) = tokio::io::duplex(16);
    drop(gone);
    let io = ProcessIo { stdout: Output::writer(sink), ..ProcessIo::default() };
    let outcome =
        place.runtime.run(place.script("yes | head -c 1000000"), io, CancellationToken::new()).await;
    assert!(matches!(outcome, Err(ExecError::Stream { stream: "stdout", .. })), "{outcome:?}");
}

#[tokio::test]
async fn root_an_already_cancelled_step_does_not_begin() {
    let place = Place::new();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let outcome = place.runtime.run(place.script("touch /x"), ProcessIo::default(), cancel).await;
    assert!(matches!(outcome, Err(ExecError::Cancelled)));
    assert!(place.changes().is_empty());
}
