//! The processes between the daemon and a step's program.
//!
//! ```text
//! daemon ──socket──► helper (this binary again, argv[0] = rbuild-init, one thread, lives as long as the daemon)
//!    ▲                  │ clone3 into new pid, mount, ipc, uts (, net) namespaces, per step
//!    └──ctl socket──────┴─► first process of the step: mounts, pivots, drops privileges, execs the program
//! ```
//! One ctl socket per step carries [`wire::Report`]s up and signals down. Whoever notices that the other end is gone
//! kills the step: the helper when the daemon hangs up, the kernel (parent-death signal) when the helper dies.
//! Nothing here runs in the daemon's own process, and the helper has one thread, so a clone of it is ordinary code.

mod dev;
mod harden;
mod helper;
pub(crate) mod mounts;
pub(crate) mod place;
pub(crate) mod program;
pub(crate) mod step;
pub(crate) mod wire;

use std::os::fd::OwnedFd;

pub(crate) use self::harden::{CAPABILITY_NAMES, MASKED, READONLY, held_capabilities};

/// The name under which the binary is executed again.
pub(crate) const ARGV0: &str = "rbuild-init";

/// Becomes the helper if this process was started as one; else returns at once.
///
/// To be called first thing in `main`, before any thread exists.
pub fn maybe_run() {
    if std::env::args_os().next().is_some_and(|name| name == ARGV0) {
        // The daemon gives the socket as standard input.
        match rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3) {
            Ok(socket) => serve(socket),
            Err(_) => rbuild_sys::process::exit_now(1),
        }
    }
}

fn serve(socket: OwnedFd) -> ! {
    helper::serve(&socket)
}

/// [`maybe_run`] for [`install_init!`](crate::install_init).
#[doc(hidden)]
pub extern "C" fn maybe_run_before_main() {
    maybe_run();
}

/// Lets the binary that contains this line serve as its own sandbox helper without a `main` that calls
/// [`init::maybe_run`](crate::init::maybe_run): for test binaries. Once, at the top of the file.
#[macro_export]
macro_rules! install_init {
    () => {
        // SAFETY: the section holds functions that the loader calls once before `main`, with arguments ours ignores.
        #[allow(unsafe_code, reason = "a section attribute")]
        #[used]
        #[unsafe(link_section = ".init_array")]
        static RBUILD_INIT: extern "C" fn() = $crate::init::maybe_run_before_main;
    };
}
