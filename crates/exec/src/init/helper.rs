//! The helper: clones a process per step, passes signals on, reaps, and dies with the daemon.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use rbuild_sys::process::{Cloned, Namespaces, clone_into, exit_now, kill};
use rbuild_sys::seccomp::Instruction;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{DumpableBehavior, WaitId, WaitIdOptions, set_dumpable_behavior, waitid};

use super::step::{self, Given};
use super::wire::{JOIN_NET, JOIN_STEP, NEW_NET, Report, receive, report};
use crate::error::{During, Failure};

const SIGKILL: i32 = 9;

/// A step that runs.
struct Child {
    pidfd: OwnedFd,
    ctl: OwnedFd,
    /// The daemon closed its end: killed, to be reaped.
    abandoned: bool,
}

/// Serves steps until the daemon hangs up, then kills what still runs and ends.
pub(super) fn serve(socket: &OwnedFd) -> ! {
    // A group of its own: what the terminal sends to the daemon is the daemon's to handle.
    rustix::process::setsid().ok();
    rbuild_sys::process::set_umask(0);
    // What `ps` shows; the descriptor it was executed through would be a mere number.
    rustix::thread::set_name(c"rbuild-init").ok();
    let filter = crate::seccomp::program();
    let Ok(own) = std::fs::File::open("/proc/self/ns/pid") else { exit_now(1) };
    let mut children: Vec<Child> = Vec::new();
    let mut open = true;
    while open || !children.is_empty() {
        let ready = wait(socket, open, &children);
        for (i, (exited, spoke)) in ready.children.iter().enumerate() {
            if *spoke {
                listen(&mut children[i]);
            }
            if *exited {
                reap(&children[i]);
            }
        }
        let mut exited = ready.children.iter().map(|(exited, _)| *exited);
        children.retain(|_| !exited.next().unwrap_or(false));
        if ready.socket && !accept(socket, &own, &filter, &mut children) {
            open = false;
            for child in &mut children {
                abandon(child);
            }
        }
    }
    exit_now(0)
}

struct ReadySet {
    socket: bool,
    /// Per child: has it exited, is there something on its ctl socket.
    children: Vec<(bool, bool)>,
}

fn wait(socket: &OwnedFd, open: bool, children: &[Child]) -> ReadySet {
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(1 + 2 * children.len());
    let flags = if open { PollFlags::POLLIN } else { PollFlags::empty() };
    fds.push(PollFd::new(socket.as_fd(), flags));
    for child in children {
        fds.push(PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN));
        // A hung-up socket would be reported for ever, so an abandoned child shows its pidfd twice.
        let second = if child.abandoned { &child.pidfd } else { &child.ctl };
        fds.push(PollFd::new(second.as_fd(), PollFlags::POLLIN));
    }
    while let Err(nix::errno::Errno::EINTR) = poll(&mut fds, PollTimeout::NONE) {}
    let hit = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    ReadySet {
        socket: open && hit(&fds[0]),
        children: fds[1..]
            .chunks(2)
            .zip(children)
            .map(|(pair, child)| (hit(&pair[0]), !child.abandoned && hit(&pair[1])))
            .collect(),
    }
}

/// Passes a signal on; the end of the stream means kill.
fn listen(child: &mut Child) {
    let mut buf = [0; 4];
    match receive(&child.ctl, &mut buf, RecvFlags::DONTWAIT) {
        Ok((4, _)) => {
            kill(&child.pidfd, i32::from_le_bytes(buf)).ok();
        }
        Err(Errno::AGAIN) => {}
        _ => abandon(child),
    }
}

fn abandon(child: &mut Child) {
    child.abandoned = true;
    kill(&child.pidfd, SIGKILL).ok();
}

fn reap(child: &Child) {
    let status = loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            other => break other.ok().flatten(),
        }
    };
    let code = status.as_ref().and_then(|s| s.exit_status()).map(|code| code as u8);
    let signal = status.as_ref().and_then(|s| s.terminating_signal());
    report(&child.ctl, &Report::Exited { code, signal }, &[]).ok();
}

/// Takes one step from the daemon and starts it; false when the daemon is gone.
fn accept(socket: &OwnedFd, own: &File, filter: &[Instruction], children: &mut Vec<Child>) -> bool {
    let mut flags = [0];
    let mut fds = match receive(socket, &mut flags, RecvFlags::empty()) {
        Ok((1, fds)) if fds.len() >= 2 => fds.into_iter(),
        Ok((0, _)) | Err(_) => return false,
        Ok(_) => return true,
    };
    let (Some(ctl), Some(job)) = (fds.next(), fds.next()) else {
        return true;
    };
    let network = if flags[0] & JOIN_NET != 0 { fds.next() } else { None };
    let step = if flags[0] & JOIN_STEP != 0 { fds.next() } else { None };
    let stdio: Vec<OwnedFd> = fds.collect();
    let cloned = match &step {
        Some(step) => clone_beside(step, own),
        None => {
            let net = flags[0] & NEW_NET != 0;
            let namespaces = Namespaces { mount: true, pid: true, ipc: true, uts: true, net };
            clone_into(namespaces).during("make namespaces")
        }
    };
    match cloned {
        Ok(Cloned::Child) => step::become_program(ctl, Given { job, network, step, stdio }, filter),
        Ok(Cloned::Parent { pidfd, .. }) => children.push(Child { pidfd, ctl, abandoned: false }),
        Err(failure) => {
            report(&ctl, &Report::Failed(failure), &[]).ok();
        }
    }
    true
}

/// Clones this process into the process namespace of a running step; the rest of its namespaces the clone enters itself.
///
/// The step's programs see the clone before it is one of them. They must not get at its memory and descriptors
/// (CVE-2016-9962), so it is not dumpable until it executes its program.
fn clone_beside(step: &OwnedFd, own: &File) -> Result<Cloned, Failure> {
    let enter = |fd: BorrowedFd<'_>| setns(fd, CloneFlags::CLONE_NEWPID).map_err(|errno| errno.desc());
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("hide from the step")?;
    let cloned = match enter(step.as_fd()).during("enter the step's processes") {
        Ok(()) => clone_into(Namespaces::default()).during("join the step"),
        Err(failure) => Err(failure),
    };
    if matches!(cloned, Ok(Cloned::Child)) {
        return cloned;
    }
    // A helper whose children land in a step is of no use to anybody: all steps end with it.
    if enter(own.as_fd()).is_err() || set_dumpable_behavior(DumpableBehavior::Dumpable).is_err() {
        exit_now(1);
    }
    cloned
}
