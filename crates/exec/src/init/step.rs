//! The first process of a step, from the clone to its program: a list of stages whose order is the security.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rbuild_sys::process::{close_all_but, exit_now, reset_signals};
use rbuild_sys::seccomp::Instruction;
use rbuild_sys::{MountFlags, MountTree, Root};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, set_parent_process_death_signal};

use super::wire::{Job, Report, read_job, report};
use super::{dev, harden, mounts, place, program};
use crate::error::{During, Failure};
use crate::spec::{NetMode, SecurityMode, clean};
use crate::stubs;
use crate::user::{self, Identity};

/// What a step is made of, beside the way to report.
pub(super) struct Given {
    pub(super) job: OwnedFd,
    /// A network namespace to enter.
    pub(super) network: Option<OwnedFd>,
    /// The first process of a step that runs, to be joined.
    pub(super) step: Option<OwnedFd>,
    pub(super) stdio: Vec<OwnedFd>,
}

/// Mounts, drops privileges and executes the program of `job`; reports why if that fails. Never returns: memory still
/// holds the helper's descriptors as owned values, which must not be dropped.
pub(super) fn become_program(ctl: OwnedFd, given: Given, filter: &[Instruction]) -> ! {
    let Given { job, network, step, stdio } = given;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        enter_network(network)?;
        run(&ctl, job, step, &stdio, filter)
    }));
    let failure = match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => Failure::setup("start", "the sandbox's first process panicked"),
    };
    report(&ctl, &Report::Failed(failure), &[]).ok();
    exit_now(1)
}

/// Before anything is mounted, so that `/sys` shows the step's interfaces.
fn enter_network(network: Option<OwnedFd>) -> Result<(), Failure> {
    let Some(network) = network else { return Ok(()) };
    nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|errno| errno.desc())
        .during("enter the network namespace")
}

fn run(
    ctl: &OwnedFd,
    job: OwnedFd,
    step: Option<OwnedFd>,
    stdio: &[OwnedFd],
    filter: &[Instruction],
) -> Result<Infallible, Failure> {
    // Until the user is set: the kernel forgets it with every change of credentials.
    set_parent_process_death_signal(Some(Signal::KILL)).during("ask for the parent-death signal")?;
    let (job, data) = read_job(job).during("read the job")?;
    rustix::process::setsid().during("start a session")?;
    join_cgroups(&job.cgroups)?;
    let (user, passwd) = match step {
        Some(step) => enter_step(ctl, step, &job, stdio)?,
        None => make_step(ctl, &job, &data, stdio)?,
    };
    crate::limits::apply(&job.ulimits)?;
    let env = program::environment(&job.env, || user::home(user.uid, &passwd));

    // From here on nothing of the host is open but the way to report, so no path can lead to it.
    close_all_but(ctl).during("close descriptors")?;
    harden::system_calls(job.security, filter)?;
    let early = enter_cwd(&job.cwd);
    harden::privileges(job.security, &user)?;
    set_parent_process_death_signal(Some(Signal::KILL)).during("ask for the parent-death signal")?;
    // A directory that only the user may enter, or one that is simply not there.
    early.or_else(|_| enter_cwd(&job.cwd))?;
    rbuild_sys::process::set_umask(0o022);
    reset_signals();
    report(ctl, &Report::Ready, &[]).during("report")?;
    program::exec(&job.args, &env)
}

/// Makes what a step is made of, around this process.
fn make_step(
    ctl: &OwnedFd,
    job: &Job,
    data: &[u8],
    stdio: &[OwnedFd],
) -> Result<(Identity, Vec<u8>), Failure> {
    if job.joinable {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).during("open a handle on this process")?;
        report(ctl, &Report::Process, &[own.as_fd()]).during("report")?;
    }
    own_cgroups()?;
    let entered = enter_root(ctl, job, data, stdio)?;
    if job.network == NetMode::None {
        rbuild_sys::net::loopback_up().during("bring up loopback")?;
    }
    rustix::system::sethostname(job.hostname.as_bytes()).during("set the host name")?;
    Ok(entered)
}

/// Enters a step that runs. Its programs may have changed everything in it, so nothing there is trusted more than an
/// image is.
fn enter_step(
    ctl: &OwnedFd,
    step: OwnedFd,
    job: &Job,
    stdio: &[OwnedFd],
) -> Result<(Identity, Vec<u8>), Failure> {
    use nix::sched::CloneFlags as Flags;
    let all = Flags::CLONE_NEWNS
        | Flags::CLONE_NEWIPC
        | Flags::CLONE_NEWUTS
        | Flags::CLONE_NEWNET
        | Flags::CLONE_NEWCGROUP;
    nix::sched::setns(step, all).map_err(|errno| errno.desc()).during("enter the step")?;
    let root = Root::open("/").during("open the step's root")?;
    let (user, passwd) = who(&root, &job.user)?;
    make_cwd(&root, &job.cwd, &user).during("make the working directory")?;
    let terminal = job.tty.map(|size| dev::terminal(&root, size)).transpose().during("open the terminal")?;
    take_streams(ctl, terminal.as_ref(), stdio)?;
    Ok((user, passwd))
}

/// Takes the terminal, whose other end goes to the daemon, or else the streams.
fn take_streams(
    ctl: &OwnedFd,
    terminal: Option<&(OwnedFd, OwnedFd)>,
    stdio: &[OwnedFd],
) -> Result<(), Failure> {
    match terminal {
        Some((ours, theirs)) => {
            report(ctl, &Report::Console, &[ours.as_fd()]).during("hand over the terminal")?;
            rustix::process::ioctl_tiocsctty(theirs).during("take the terminal")?;
            attach_stdio(&[theirs, theirs, theirs]).during("attach the terminal")
        }
        None => attach_stdio(&stdio.iter().collect::<Vec<_>>()).during("attach the streams"),
    }
}

/// Builds the step's file system, moves into it, and takes its streams. Returns who it runs as, with the image's
/// `passwd`; every descriptor opened on the way is closed again.
fn enter_root(
    ctl: &OwnedFd,
    job: &Job,
    data: &[u8],
    stdio: &[OwnedFd],
) -> Result<(Identity, Vec<u8>), Failure> {
    rbuild_sys::make_private().during("make mounts private")?;
    let tree = MountTree::new(&job.rootfs).during("mount the root file system")?;
    let root = enter_tree(&tree).during("attach the root file system")?;
    let stubs = stubs::missing(
        &root,
        &stub_names(job.mounts.iter().map(|mount| mount.dest.as_str())),
        job.remove_stubs_recursive,
    );
    let (user, passwd) = who(&root, &job.user)?;
    make_cwd(&root, &job.cwd, &user).during("make the working directory")?;
    mounts::all(&root, job, data)?;
    stubs.restore_times();
    for path in &stubs.paths {
        report(ctl, &Report::Stub(place::bytes(path)), &[]).during("report")?;
    }
    if job.security == SecurityMode::Sandbox {
        harden::kernel_files(&root)?;
    }
    let console = job.tty.map(|size| dev::console(&root, size)).transpose().during("open the terminal")?;
    if job.readonly_root {
        let flags = MountFlags { readonly: true, ..MountFlags::default() };
        tree.set(flags).during("lock the root file system")?;
    }
    pivot(&root).during("pivot_root")?;
    take_streams(ctl, console.as_ref(), stdio)?;
    Ok((user, passwd))
}

/// Before anything is counted, and before the cgroup namespace is made, so that its root is the step's own.
fn join_cgroups(files: &[PathBuf]) -> Result<(), Failure> {
    for file in files {
        std::fs::write(file, "0").during(&format!("join cgroup {}", file.display()))?;
    }
    Ok(())
}

fn own_cgroups() -> Result<(), Failure> {
    if crate::cgroup::is_unified() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .map_err(|errno| errno.desc())
            .during("make a cgroup namespace")?;
    }
    Ok(())
}

/// Puts the root file system over the old root of this process's private view, where `pivot_root` wants it.
fn enter_tree(tree: &MountTree) -> rbuild_sys::Result<Root> {
    tree.attach(Root::open("/")?.as_fd())?;
    tree.root()
}

/// Places that the step's mounts may leave behind as empty stubs.
pub(crate) fn stub_names<'a>(dests: impl Iterator<Item = &'a str>) -> Vec<String> {
    ["/etc/resolv.conf", "/etc/hosts"].into_iter().chain(dests).map(clean).collect()
}

/// Who `user` is in the image at `root`, and the image's `passwd`.
pub(crate) fn who(root: &Root, user: &str) -> Result<(Identity, Vec<u8>), Failure> {
    let passwd = read_file(root, "/etc/passwd")?;
    let group = read_file(root, "/etc/group")?;
    let identity = user::lookup(user, passwd.as_deref(), group.as_deref())?;
    Ok((identity, passwd.unwrap_or_default()))
}

/// A file of the image: none if there is none or it is no regular file, an error if it is absurdly large.
fn read_file(root: &Root, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    match root.read_limited(path, user::FILE_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(err) if err.errno() == nix::libc::EFBIG => {
            Err(Failure::User(format!("`{path}` of the image exceeds {} bytes", user::FILE_MAX)))
        }
        Err(_) => Ok(None),
    }
}

/// Makes the working directory, owned by the user, if it is missing.
pub(crate) fn make_cwd(root: &Root, cwd: &str, user: &Identity) -> rbuild_sys::Result<()> {
    match root.stat_follow(cwd) {
        Err(err) if err.is_not_found() => {}
        // What is wrong otherwise shows when it is entered.
        _ => return Ok(()),
    }
    let place = place::resolve(root, Path::new(cwd))?;
    for made in root.mkdir_all(place, 0o755)? {
        root.chown(made, user.uid, user.gid)?;
    }
    Ok(())
}

/// Makes `root` the root of this process and forgets the old one with everything mounted there.
fn pivot(root: &Root) -> Result<(), Errno> {
    use rustix::mount::{UnmountFlags, unmount};
    rustix::process::fchdir(root.as_fd())?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn attach_stdio(fds: &[&OwnedFd]) -> Result<(), Errno> {
    let [stdin, stdout, stderr] = fds else {
        return Err(Errno::BADF);
    };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)
}

/// Enters the working directory and makes sure that it lies in the step's own file system.
fn enter_cwd(cwd: &str) -> Result<(), Failure> {
    let stage = format!("enter working directory `{cwd}`");
    rustix::process::chdir(cwd).during(&stage)?;
    let now = rustix::process::getcwd(Vec::new()).during(&stage)?;
    if !now.as_bytes().starts_with(b"/") {
        return Err(Failure::setup(stage, "it lies outside of the step's root file system"));
    }
    Ok(())
}
