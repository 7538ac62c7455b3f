//! The same steps with an OCI runtime, where one is installed.

use std::path::PathBuf;
use std::time::Duration;

use rbuild_exec::{
    ContainerMount, ExecError, Input, MountSource, OciOptions, OciRuntime, ProcessIo, ProcessSpec, Runtime,
    TermSize,
};
use rbuild_sys::Mount;
use tokio_util::sync::CancellationToken;

use crate::{Done, Place, Text, bind};

const LONG: Duration = Duration::from_secs(30);

fn installed(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .map(|dir| PathBuf::from(dir).join(name))
        .into_iter()
        .find(|path| path.exists())
}

/// One runtime per binary that is there.
fn runtimes(place: &Place) -> Vec<OciRuntime> {
    // crun refuses hosts that have both cgroup versions.
    let hybrid = std::path::Path::new("/sys/fs/cgroup/unified").exists();
    ["runc", "crun"]
        .into_iter()
        .filter(|name| !hybrid || *name != "crun")
        .filter_map(|name| {
            let options = OciOptions { binary: installed(name)?, state_dir: place.path(name), bridge: None };
            Some(OciRuntime::new(options).unwrap())
        })
        .collect()
}

async fn run(runtime: &OciRuntime, spec: ProcessSpec) -> Result<Done, ExecError> {
    let (out, err) = (Text::default(), Text::default());
    let io = ProcessIo { stdout: out.sink(), stderr: err.sink(), ..ProcessIo::default() };
    let status =
        tokio::time::timeout(LONG, runtime.run(spec, io, CancellationToken::new())).await.unwrap()?;
    Ok(Done { status, out: out.take(), err: err.take() })
}

fn nothing_left(place: &Place, runtime: &OciRuntime) {
    let run = place.path(runtime.name()).join("run");
    assert_eq!(std::fs::read_dir(run).unwrap().count(), 0);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&place.dir.path().display().to_string()), "{mounts}");
}

#[tokio::test]
async fn root_oci_runtimes_do_the_same() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("data/sub")).unwrap();
    std::fs::write(place.path("data/sub/f"), "sub").unwrap();
    for runtime in runtimes(&place) {
        let mut spec = place.script("id -u; pwd; cat /run/s /m/f; echo e >&2; touch /kept; exit 3");
        spec.user = "app".into();
        spec.cwd = "/srv/x".into();
        spec.user = "root".into();
        let secret = MountSource::Data { bytes: b"secret ".to_vec(), mode: 0o444, uid: 0, gid: 0 };
        let mut sub = bind("/m", place.path("data"), true);
        sub.subpath = "sub".into();
        spec.mounts = vec![
            ContainerMount { dest: "/run/s".into(), source: secret, subpath: String::new(), readonly: true },
            sub,
        ];
        let done = run(&runtime, spec).await.unwrap();
        assert_eq!((done.code(), done.out.as_str(), done.err.as_str()), (3, "0\n/srv/x\nsecret sub", "e\n"));
        nothing_left(&place, &runtime);
        let changes = place.changes();
        assert!(
            !changes.iter().any(|name| ["m", "run/s", "etc/hosts"].contains(&name.as_str())),
            "{changes:?}"
        );
    }
}

#[tokio::test]
async fn root_oci_errors_are_in_our_terms() {
    let place = Place::new();
    for runtime in runtimes(&place) {
        let mut spec = place.script("");
        spec.args = vec!["nope".into()];
        let err = run(&runtime, spec).await.unwrap_err();
        assert_eq!(err.exit_code(), Some(127), "{}: {err}", runtime.name());
        let mut spec = place.script("");
        spec.user = "ghost".into();
        assert!(matches!(run(&runtime, spec).await, Err(ExecError::User(_))));
        nothing_left(&place, &runtime);
    }
    let missing = OciOptions { binary: "/no/such/runtime".into(), state_dir: place.path("x"), bridge: None };
    assert!(matches!(OciRuntime::new(missing), Err(ExecError::Invalid { .. })));
}

#[tokio::test]
async fn root_oci_cancel_and_drop_leave_nothing() {
    let place = Place::new();
    for runtime in runtimes(&place) {
        let cancel = CancellationToken::new();
        let out = Text::default();
        let io = ProcessIo { stdout: out.sink(), ..ProcessIo::default() };
        let stop = async {
            while !String::from_utf8_lossy(&out.0.lock().unwrap()).contains("up") {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            cancel.cancel();
        };
        let step = runtime.run(place.script("trap '' TERM; echo up; sleep 7201"), io, cancel.clone());
        let (outcome, ()) = tokio::time::timeout(LONG, async { tokio::join!(step, stop) }).await.unwrap();
        assert!(matches!(outcome, Err(ExecError::Cancelled)), "{outcome:?}");
        nothing_left(&place, &runtime);
    }
}

#[tokio::test]
async fn root_oci_steps_can_have_a_terminal() {
    let place = Place::new();
    for runtime in runtimes(&place) {
        let mut spec = ProcessSpec::new(
            Mount::Bind { source: place.path("base"), readonly: false },
            ["/bin/sh", "-c", "tty >/dev/null && stty size; read x; echo got $x"],
        );
        spec.tty = Some(TermSize { rows: 31, cols: 71 });
        let out = Text::default();
        let io = ProcessIo {
            stdin: Input::Reader(Box::pin(&b"word\n"[..])),
            stdout: out.sink(),
            ..ProcessIo::default()
        };
        let status =
            tokio::time::timeout(LONG, runtime.run(spec, io, CancellationToken::new())).await.unwrap();
        let text = out.take();
        assert!(status.unwrap().success(), "{text}");
        assert!(text.contains("got word"), "{}: {text}", runtime.name());
    }
}
