//! Further processes beside the first one of a sandbox.

use rbuild_exec::{ExitStatus, ProcessIo, ProcessSpec, Runtime, Sandbox, TermSize};
use tokio_util::sync::CancellationToken;

use crate::{Place, Text};

/// Starts `first` and, once it runs, does `then` with its sandbox; how the first one ended, and what `then` made.
async fn beside<T>(
    place: &Place,
    first: ProcessSpec,
    cancel: &CancellationToken,
    then: impl AsyncFnOnce(Sandbox) -> T,
) -> (ExitStatus, T) {
    let (given, sandbox) = tokio::sync::oneshot::channel();
    let io = ProcessIo { sandbox: Some(given), ..ProcessIo::default() };
    let running = place.runtime.run(first, io, cancel.clone());
    let then = async { then(sandbox.await.unwrap()).await };
    let (status, made) = tokio::join!(running, then);
    (status.unwrap(), made)
}

/// Runs a script beside: its output and its exit code.
async fn join(place: &Place, sandbox: &Sandbox, spec: ProcessSpec) -> (String, u32) {
    let out = Text::default();
    let io = ProcessIo { stdout: out.sink(), stderr: out.sink(), ..ProcessIo::default() };
    let status = place.runtime.join(sandbox, spec, io, CancellationToken::new()).await.unwrap();
    (out.take(), status.exit_code())
}

/// Waits to be told by a file.
const WAITING: &str = "while [ ! -e /end ]; do sleep 0.01; done";

#[tokio::test]
async fn root_it_is_where_the_first_one_is() {
    let place = Place::new();
    let mut first = place.script(&format!("echo shared > /tmp/f; mkdir /made; {WAITING}; exit 4"));
    first.hostname = "there".into();
    let seen = "for n in mnt pid net ipc uts cgroup; do
        [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n differs; done
        for l in CapEff CapBnd CapPrm NoNewPrivs Seccomp; do
        [ \"$(grep $l: /proc/self/status)\" = \"$(grep $l: /proc/1/status)\" ] || echo $l differs; done
        hostname; cat /tmp/f; ls -d /made; pwd; id -u; touch /end; exit 3";
    let (status, (text, code)) = beside(&place, first, &CancellationToken::new(), async |sandbox| {
        let mut spec = place.script(seen);
        (spec.cwd, spec.user) = ("/new/dir".into(), String::new());
        join(&place, &sandbox, spec).await
    })
    .await;
    assert_eq!((text.as_str(), code), ("there\nshared\n/made\n/new/dir\n0\n", 3));
    assert_eq!(status.exit_code(), 4);
    // The helper is where it was: another step has a sandbox of its own.
    assert_eq!(place.sh("echo $$; ls /end").await.ok(), "1\n/end\n");
}

#[tokio::test]
async fn root_others_have_users_terminals_and_failures_of_their_own() {
    let place = Place::new();
    let first = place.script(WAITING);
    let (_, ()) = beside(&place, first, &CancellationToken::new(), async |sandbox| {
        let mut spec = place.script("id -u; id -g; echo $HOME; tty; stty size");
        (spec.user, spec.tty) = ("app".into(), Some(TermSize { rows: 7, cols: 9 }));
        let (text, code) = join(&place, &sandbox, spec).await;
        assert_eq!((text.as_str(), code), ("1000\r\n1001\r\n/srv/app\r\n/dev/pts/0\r\n7 9\r\n", 0));
        let spec = ProcessSpec::new(place.rootfs(), ["/no/such"]);
        let failed = place.runtime.join(&sandbox, spec, ProcessIo::default(), CancellationToken::new()).await;
        assert_eq!(failed.unwrap_err().exit_code(), Some(127));
        let (stop, spec) = (CancellationToken::new(), place.script("sleep 7301"));
        let (started, begun) = tokio::sync::oneshot::channel();
        let io = ProcessIo { started: Some(started), ..ProcessIo::default() };
        let ((), stopped) = tokio::join!(
            async {
                begun.await.unwrap();
                stop.cancel();
            },
            place.runtime.join(&sandbox, spec, io, stop.clone())
        );
        assert!(matches!(stopped, Err(rbuild_exec::ExecError::Cancelled)), "{stopped:?}");
        // The first one has noticed nothing.
        assert_eq!(join(&place, &sandbox, place.script("touch /end")).await.1, 0);
    })
    .await;
}

#[tokio::test]
async fn root_all_end_with_the_first_one() {
    let place = Place::new();
    let first = place.script("while [ ! -e /joined ]; do sleep 0.01; done; exit 6");
    let (status, (_, code)) = beside(&place, first, &CancellationToken::new(), async |sandbox| {
        join(&place, &sandbox, place.script("touch /joined; sleep 7302")).await
    })
    .await;
    assert_eq!((status.exit_code(), code), (6, 137));
    // What is gone cannot be joined.
    let (given, sandbox) = tokio::sync::oneshot::channel();
    let io = ProcessIo { sandbox: Some(given), ..ProcessIo::default() };
    place.runtime.run(place.script("true"), io, CancellationToken::new()).await.unwrap();
    let sandbox = sandbox.await.unwrap();
    let late =
        place.runtime.join(&sandbox, place.script("true"), ProcessIo::default(), CancellationToken::new());
    assert!(late.await.is_err());
    assert!(place.sh("true").await.status.success());
}
