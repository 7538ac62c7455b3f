//! Starting and ending processes: clones into namespaces, descriptors to close, the umask.
#![allow(unsafe_code, reason = "clone3, close_range and _exit have no safe wrappers")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use crate::error::{RawErrno, Result, SysError};

/// Which namespaces a clone gets anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Mounts.
    pub mount: bool,
    /// Process ids; the clone is number 1.
    pub pid: bool,
    /// System V and POSIX queues and memory.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Network.
    pub net: bool,
}

impl Namespaces {
    fn flags(self) -> u64 {
        let bits = [
            (self.mount, libc::CLONE_NEWNS),
            (self.pid, libc::CLONE_NEWPID),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
            (self.net, libc::CLONE_NEWNET),
        ];
        bits.iter().filter(|(on, _)| *on).map(|(_, bit)| *bit as u64).sum()
    }
}

/// Which side of a clone we are on.
#[derive(Debug)]
pub enum Cloned {
    /// The new process, with a copy of the old one's memory and descriptors.
    Child,
    /// The old process.
    Parent {
        /// The child's id as the parent sees it.
        pid: i32,
        /// A handle on the child.
        pidfd: OwnedFd,
    },
}

/// Clones the calling process into new namespaces.
///
/// Errors: `EBUSY` if the process has more than one thread, for then the copy could hold locks that nobody will ever
/// release. The child gets `SIGCHLD` semantics of a plain fork.
pub fn clone_into(namespaces: Namespaces) -> Result<Cloned> {
    if !is_single_threaded()? {
        return Err(SysError::new("clone3", "", libc::EBUSY)
            .with_detail("only a process with a single thread may be cloned"));
    }
    let mut pidfd: libc::c_int = -1;
    let args = CloneArgs {
        flags: namespaces.flags() | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and with a null stack the child runs on its own copy of this stack, as after fork. There
    // is one thread (checked above, and no other thread can start one), so no lock is held by a thread that is lost.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Cloned::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
        _ => Err(SysError::new("clone3", "", RawErrno::from(std::io::Error::last_os_error()))),
    }
}

/// `struct clone_args`, first version (`linux/sched.h`).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Has the calling process exactly one thread?
pub fn is_single_threaded() -> Result<bool> {
    // A directory has one link per sub-directory, `.` and `..`: here one sub-directory per thread.
    let stat = rustix::fs::stat("/proc/self/task")
        .map_err(|errno| SysError::new("stat", "/proc/self/task", errno))?;
    Ok(stat.st_nlink == 3)
}

/// Closes every descriptor above standard error except `keep`.
///
/// For processes that are about to call `exec` or `_exit`: owners of those descriptors in memory must never be dropped.
pub fn close_all_but(keep: impl AsFd) -> Result<()> {
    let keep = keep.as_fd().as_raw_fd().unsigned_abs();
    if keep > 3 {
        close_range(3, keep - 1)?;
    }
    close_range(keep.max(2) + 1, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: only numbers are passed. That closing them leaves owners behind is the caller's documented duty.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 {
        return Ok(());
    }
    Err(SysError::new("close_range", "", RawErrno::from(std::io::Error::last_os_error())))
}

/// Gives every signal its default action and blocks none, as a new program expects it.
pub fn reset_signals() {
    // SAFETY: default actions run no code of ours; an emptied set is valid; numbers that cannot be changed just fail.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Ends the process at once: no destructors, no buffers, no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no requirements.
    unsafe { libc::_exit(code) }
}

/// Signals the process of `pidfd`; a process that is gone already is fine.
pub fn kill(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd();
    // SAFETY: the descriptor is open, the info pointer may be null, there are no flags.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    let err = std::io::Error::last_os_error();
    if done == 0 || err.raw_os_error() == Some(Errno::SRCH.raw_os_error()) {
        return Ok(());
    }
    Err(SysError::new("pidfd_send_signal", "", RawErrno::from(err)))
}

/// User and group that this process acts as.
pub fn user_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Kills all processes of the group that `leader` leads; a group that is gone already is fine.
///
/// The caller has not waited for the leader yet, so that the number is still the group's.
pub fn kill_group(leader: u32) -> Result<()> {
    let pid = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| SysError::new("kill", "", Errno::INVAL))?;
    match rustix::process::kill_process_group(pid, rustix::process::Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(SysError::new("kill", "", errno)),
    }
}

/// What the umask is known to be; [`UNKNOWN`] until it was set or read.
static UMASK: AtomicU32 = AtomicU32::new(UNKNOWN);
const UNKNOWN: u32 = u32::MAX;

/// Sets the umask of the process. Elsewhere it must not be set, for it is remembered.
pub fn set_umask(umask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    UMASK.store(umask, Ordering::Relaxed);
}

/// Would the process's umask take bits away from `mode`? It is read once, if [`set_umask`] never told.
pub(crate) fn umask_masks(mode: u32) -> bool {
    let mut umask = UMASK.load(Ordering::Relaxed);
    if umask == UNKNOWN {
        umask = read_umask();
        UMASK.store(umask, Ordering::Relaxed);
    }
    mode & umask != 0
}

fn read_umask() -> u32 {
    // The call that reads it also sets it, for all threads; /proc does not.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Unknown: assume it takes everything, so modes are set again.
    umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_cloned() {
        // The test harness runs us on a second thread.
        assert!(!is_single_threaded().unwrap());
        let err = clone_into(Namespaces::default()).unwrap_err();
        assert_eq!(err.errno(), libc::EBUSY);
    }

    #[test]
    fn the_umask_is_read() {
        assert!(!umask_masks(0o700) || read_umask() & 0o700 != 0);
    }
}
