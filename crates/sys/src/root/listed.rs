//! `listxattrat(2)`: names of attributes without a way through `/proc`, which costs more than the answer.
#![allow(unsafe_code, reason = "listxattrat has no safe wrapper yet")]

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// Its number, which is one on all architectures that got their tables after 2019.
const SYS_LISTXATTRAT: libc::c_long = 465;
/// Not on these: their numbers have an offset.
const KNOWN: bool = cfg!(not(any(target_arch = "mips", target_arch = "mips64")));

/// The kernel is older than 6.13 (or a filter says so): not asked again.
static MISSING: AtomicBool = AtomicBool::new(!KNOWN);

/// The names of `name` itself in `dir`, each with a NUL, into `buf`; their length. `None`: ask in another way.
pub(super) fn list_at(dir: BorrowedFd<'_>, name: &OsStr, buf: &mut [u8]) -> Option<Result<usize, Errno>> {
    if MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let Ok(name) = CString::new(name.as_bytes()) else { return Some(Err(Errno::INVAL)) };
    // SAFETY: the name ends with a NUL, the kernel writes at most `buf.len()` bytes into `buf`, and both outlive the call.
    let len = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            buf.as_mut_ptr(),
            buf.len(),
        )
    };
    if let Ok(len) = usize::try_from(len) {
        return Some(Ok(len));
    }
    match std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL) {
        libc::ENOSYS => {
            MISSING.store(true, Ordering::Relaxed);
            None
        }
        // What filters of containers say of calls that they do not know.
        libc::EPERM => None,
        errno => Some(Err(Errno::from_raw_os_error(errno))),
    }
}
