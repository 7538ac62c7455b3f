//! [`NativeRuntime`]: our own sandbox; see [`crate::init`] for its processes.

mod etc_files;
mod helper;
mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio_util::sync::CancellationToken;

use self::etc_files::{EtcFile, EtcFiles};
use self::helper::Helper;
use crate::bridge::{Attachment, Bridge};
use crate::cgroup::Cgroup;
use crate::error::ExecError;
use crate::etc;
use crate::init::wire::{self, JOIN_NET, JOIN_STEP, Job, JobMount, NEW_NET, Source};
use crate::runtime::{ExitStatus, Input, Output, ProcessIo, Runtime, Sandbox};
use crate::spec::{ContainerMount, MountSource, NetMode, ProcessSpec};
use crate::usage::Meter;

/// How a [`NativeRuntime`] is made.
#[derive(Debug, Clone, Default)]
pub struct NativeOptions {
    /// A directory of its own (`run/exec`); emptied at start.
    pub state_dir: PathBuf,
    /// The binary that serves as helper: one whose `main` calls [`init::maybe_run`](crate::init::maybe_run). `None`:
    /// this very binary.
    pub helper: Option<PathBuf>,
    /// What steps of [`NetMode::Bridge`] are connected to.
    pub bridge: Option<Bridge>,
}

/// Runs steps in namespaces made by a helper process of ours.
#[derive(Debug, Clone)]
pub struct NativeRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    etc: EtcFiles,
    helper: Helper,
    bridge: Option<Bridge>,
}

impl NativeRuntime {
    /// Prepares the state directory. The helper starts with the first step, or with [`NativeRuntime::warm`].
    pub fn new(options: NativeOptions) -> Result<NativeRuntime, ExecError> {
        let NativeOptions { state_dir, helper, bridge } = options;
        crate::cgroup::sweep();
        let inner = Inner { etc: EtcFiles::create(&state_dir)?, helper: Helper::new(helper), bridge };
        Ok(NativeRuntime { inner: Arc::new(inner) })
    }

    /// Starts the helper now, so that the first step does not wait for it.
    pub fn warm(&self) -> Result<(), ExecError> {
        self.inner.helper.start()
    }
}

#[async_trait]
impl Runtime for NativeRuntime {
    async fn run(
        &self,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        spec.validate()?;
        if cancel.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let (inner, wants) = (self.inner.clone(), Wants::of(&io));
        let launched = blocking(move || inner.launch(spec, wants)).await??;
        watch::run(launched, io, cancel).await
    }

    async fn join(
        &self,
        sandbox: &Sandbox,
        spec: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, ExecError> {
        spec.validate()?;
        if cancel.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let (inner, wants) = (self.inner.clone(), Wants::of(&io));
        let process = sandbox.process.try_clone().map_err(|err| io_error("name the sandbox", &err))?;
        let cgroups = sandbox.cgroups.clone();
        let launched = blocking(move || inner.launch_beside(&process, cgroups, spec, wants)).await??;
        watch::run(launched, io, cancel).await
    }

    fn name(&self) -> &'static str {
        "native"
    }
}

/// Runs `f` on the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ExecError> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|err| ExecError::Setup { stage: "prepare the step".into(), message: err.to_string() })
}

/// A name for cgroups and bundles, unlike any other of this daemon or of others.
pub(crate) fn step_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Which streams somebody listens to.
#[derive(Debug, Clone, Copy)]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    /// The sandbox, too, for further processes.
    sandbox: bool,
    /// What the step uses, too.
    usage: bool,
}

impl Wants {
    fn of(io: &ProcessIo) -> Wants {
        Wants {
            stdin: matches!(io.stdin, Input::Reader(_)),
            stdout: !matches!(io.stdout, Output::Null),
            stderr: !matches!(io.stderr, Output::Null),
            sandbox: io.sandbox.is_some(),
            usage: io.usage.is_some(),
        }
    }
}

/// A step on its way; dropping it kills the step, for the helper then sees the ctl socket hang up.
#[derive(Debug)]
struct Launched {
    ctl: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// A terminal will be reported instead of the three.
    tty: bool,
    kept: Kept,
}

/// What a step leaves to be cleaned up.
#[derive(Debug)]
struct Kept {
    cgroup: Option<Cgroup>,
    meter: Option<Meter>,
    /// Where changes of the root file system land.
    write_dir: Option<PathBuf>,
    /// Files bound into the step, kept until its end.
    _etc: Vec<EtcFile>,
    _network: Option<Attachment>,
}

/// The two ends of one stream: ours, if anybody listens, and the process's.
struct Stream {
    ours: Option<OwnedFd>,
    theirs: OwnedFd,
}

impl Inner {
    fn launch(&self, spec: ProcessSpec, wants: Wants) -> Result<Launched, ExecError> {
        let hosts = self.etc.file(etc::hosts(spec.hostname(), &spec.extra_hosts))?;
        let host = etc::host_resolv_conf(spec.network).map_err(|err| io_error("read resolv.conf", &err))?;
        let resolv = self.etc.file(etc::resolv_conf(&host, &spec.dns, spec.network))?;
        let cgroup = Cgroup::create(&spec, &step_id(), wants.usage)?;
        let counted = cgroup.as_ref().filter(|_| wants.usage);
        let meter = counted.map(|cgroup| Meter::start(cgroup.dirs().to_vec()));
        let (tty, write_dir) = (spec.tty.is_some(), spec.rootfs.write_dir().map(PathBuf::from));
        let network = attach(self.bridge.as_ref(), spec.network)?;
        let flags = match spec.network {
            NetMode::None => NEW_NET,
            NetMode::Bridge => JOIN_NET,
            NetMode::Host => 0,
        };

        let place = [hosts.path().to_path_buf(), resolv.path().to_path_buf()];
        let cgroups = cgroup.as_ref().map(Cgroup::procs).unwrap_or_default();
        let (mut job, data) = job(spec, place, cgroups);
        job.joinable = wants.sandbox;
        let job = wire::write_job(&job, &data).map_err(|err| io_error("write the job", &err))?;
        let kept = Kept { cgroup, meter, write_dir, _etc: vec![hosts, resolv], _network: None };
        let namespace = network.as_ref().map(|network| network.namespace().as_fd());
        let mut launched = self.send(flags, &job, namespace, tty, wants, kept)?;
        launched.kept._network = network;
        Ok(launched)
    }

    /// Starts a process beside the first one of a sandbox.
    fn launch_beside(
        &self,
        process: &OwnedFd,
        cgroups: Vec<PathBuf>,
        spec: ProcessSpec,
        wants: Wants,
    ) -> Result<Launched, ExecError> {
        let tty = spec.tty.is_some();
        let (job, data) = job(spec, Default::default(), cgroups);
        let job = wire::write_job(&job, &data).map_err(|err| io_error("write the job", &err))?;
        let kept = Kept { cgroup: None, meter: None, write_dir: None, _etc: Vec::new(), _network: None };
        self.send(JOIN_STEP, &job, Some(process.as_fd()), tty, wants, kept)
    }

    /// Hands a job to the helper. `third`: what the flags say that comes with it.
    fn send(
        &self,
        flags: u8,
        job: &OwnedFd,
        third: Option<BorrowedFd<'_>>,
        tty: bool,
        wants: Wants,
        kept: Kept,
    ) -> Result<Launched, ExecError> {
        let (ctl, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|err| io_error("make a socket pair", &err.into()))?;
        let mut launched = Launched { ctl, stdin: None, stdout: None, stderr: None, tty, kept };
        let mut fds = vec![theirs.as_fd(), job.as_fd()];
        fds.extend(third);
        if launched.tty {
            self.helper.send(flags, &fds)?;
            return Ok(launched);
        }
        let stdin = stream(wants.stdin, true)?;
        let stdout = stream(wants.stdout, false)?;
        let stderr = stream(wants.stderr, false)?;
        fds.extend([stdin.theirs.as_fd(), stdout.theirs.as_fd(), stderr.theirs.as_fd()]);
        self.helper.send(flags, &fds)?;
        (launched.stdin, launched.stdout, launched.stderr) = (stdin.ours, stdout.ours, stderr.ours);
        Ok(launched)
    }
}

/// The step's place on the bridge, if its mode wants one.
pub(crate) fn attach(bridge: Option<&Bridge>, mode: NetMode) -> Result<Option<Attachment>, ExecError> {
    match (mode, bridge) {
        (NetMode::Host | NetMode::None, _) => Ok(None),
        (NetMode::Bridge, Some(bridge)) => bridge.attach().map(Some),
        (NetMode::Bridge, None) => Err(ExecError::Invalid {
            field: "network",
            message: "this daemon has no bridge: its networkMode is another".into(),
        }),
    }
}

/// A pipe if somebody listens, else the null device.
fn stream(wanted: bool, input: bool) -> Result<Stream, ExecError> {
    if !wanted {
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|err| io_error("open /dev/null", &err))?;
        return Ok(Stream { ours: None, theirs: null.into() });
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|err| io_error("make a pipe", &err.into()))?;
    Ok(if input {
        Stream { ours: Some(write), theirs: read }
    } else {
        Stream { ours: Some(read), theirs: write }
    })
}

fn io_error(stage: &str, err: &std::io::Error) -> ExecError {
    ExecError::Setup { stage: stage.into(), message: err.to_string() }
}

/// The specification as the step's first process wants it, and the bytes beside it.
fn job(spec: ProcessSpec, [hosts, resolv_conf]: [PathBuf; 2], cgroups: Vec<PathBuf>) -> (Job, Vec<u8>) {
    let mut data = Vec::new();
    let hostname = spec.hostname().to_owned();
    let mounts = spec.mounts.into_iter().map(|mount| job_mount(mount, &mut data));
    let job = Job {
        mounts: mounts.collect(),
        args: spec.args,
        env: spec.env,
        cwd: crate::spec::clean(&spec.cwd),
        user: spec.user,
        rootfs: spec.rootfs,
        readonly_root: spec.readonly_root,
        network: spec.network,
        security: spec.security,
        hostname,
        hosts,
        resolv_conf,
        ulimits: spec.ulimits,
        cgroups,
        tty: spec.tty,
        remove_stubs_recursive: spec.remove_stubs_recursive,
        joinable: false,
    };
    (job, data)
}

/// One mount on the wire; the bytes of a file are appended to `data`.
pub(crate) fn job_mount(mount: ContainerMount, data: &mut Vec<u8>) -> JobMount {
    let source = match mount.source {
        MountSource::Mount(mount) => Source::Mount(mount),
        MountSource::Data { bytes, mode, uid, gid } => {
            let offset = data.len();
            data.extend_from_slice(&bytes);
            Source::Data { offset, len: bytes.len(), mode, uid, gid }
        }
    };
    JobMount { dest: mount.dest, subpath: mount.subpath, readonly: mount.readonly, source }
}
