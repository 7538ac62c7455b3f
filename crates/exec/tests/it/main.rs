//! Steps run for real, in a root file system made of busybox. All need root, hence the names.

#![allow(clippy::unwrap_used, reason = "tests")]

rbuild_exec::install_init!();

mod basics;
mod join;
mod lifetime;
mod mounts;
mod oci;
mod sandbox;
mod stubs;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rbuild_exec::{
    ContainerMount, ExecError, ExitStatus, MountSource, NativeOptions, NativeRuntime, Output, ProcessIo,
    ProcessSpec, Runtime,
};
use rbuild_sys::Mount;
use tokio_util::sync::CancellationToken;

const APPLETS: &[&str] = &[
    "sh", "cat", "id", "pwd", "ls", "sleep", "touch", "mkdir", "ln", "rm", "head", "dd", "stat", "mount",
    "hostname", "env", "kill", "mv", "echo", "true", "false", "yes", "grep", "ip", "mknod", "chmod",
    "readlink", "df", "unshare", "stty", "nproc", "ps", "wc", "chroot", "su", "setsid", "date", "tty",
];

/// A place to run steps in: a base layer, an upper directory, a runtime.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: NativeRuntime,
}

/// What a step did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// Its output, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }

    #[track_caller]
    pub(crate) fn code(&self) -> u32 {
        self.status.exit_code()
    }
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::create_dir_all(base.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        for made in ["etc", "proc", "sys", "dev", "tmp", "root"] {
            std::fs::create_dir_all(base.join(made)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/srv/app:/bin/sh\n";
        std::fs::write(base.join("etc/passwd"), passwd).unwrap();
        std::fs::write(base.join("etc/group"), "root:x:0:\nwheel:x:10:app\napp:x:1001:\n").unwrap();
        for made in ["upper", "work", "empty"] {
            std::fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        let options = NativeOptions { state_dir: dir.path().join("state"), helper: None, bridge: None };
        Place { runtime: NativeRuntime::new(options).unwrap(), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn rootfs(&self) -> Mount {
        Mount::Overlay {
            lower: vec![self.path("base")],
            upper: Some(self.path("upper")),
            work: Some(self.path("work")),
            volatile: true,
        }
    }

    /// A step that runs a shell script.
    pub(crate) fn script(&self, script: &str) -> ProcessSpec {
        ProcessSpec::new(self.rootfs(), ["/bin/sh", "-c", script])
    }

    pub(crate) async fn run(&self, spec: ProcessSpec) -> Result<Done, ExecError> {
        let (out, err) = (Text::default(), Text::default());
        let io = ProcessIo { stdout: out.sink(), stderr: err.sink(), ..ProcessIo::default() };
        let status = self.runtime.run(spec, io, CancellationToken::new()).await?;
        Ok(Done { status, out: out.take(), err: err.take() })
    }

    pub(crate) async fn sh(&self, script: &str) -> Done {
        self.run(self.script(script)).await.unwrap()
    }

    /// Everything in the upper directory, sorted.
    pub(crate) fn changes(&self) -> Vec<String> {
        let mut names = Vec::new();
        list(&self.path("upper"), Path::new(""), &mut names);
        names.sort();
        names
    }
}

fn list(dir: &Path, below: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = below.join(entry.file_name());
        names.push(name.display().to_string());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &name, names);
        }
    }
}

/// Collects output.
#[derive(Default, Clone)]
pub(crate) struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    pub(crate) fn sink(&self) -> Output {
        Output::writer(self.clone())
    }

    pub(crate) fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.0.lock().unwrap())).into_owned()
    }
}

impl tokio::io::AsyncWrite for Text {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// `source` bound at `dest`.
pub(crate) fn bind(dest: &str, source: PathBuf, readonly: bool) -> ContainerMount {
    ContainerMount {
        dest: dest.into(),
        source: MountSource::Mount(Mount::Bind { source, readonly: false }),
        subpath: String::new(),
        readonly,
    }
}
