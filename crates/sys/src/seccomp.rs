//! Seccomp filters: programs of the kernel's classic BPF, and installing them.
#![allow(unsafe_code, reason = "installing a filter passes a pointer to it")]

use crate::error::{RawErrno, Result, SysError};

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if a condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Installs `program` for the calling thread and what it will execute; it cannot be taken back.
///
/// Needs `CAP_SYS_ADMIN` or `no_new_privs`. The kernel checks the program; `EINVAL` if it is malformed.
pub fn install(program: &[Instruction]) -> Result<()> {
    let len = u16::try_from(program.len())
        .map_err(|_| SysError::new("seccomp", "", libc::EINVAL).with_detail("program too long"))?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `prog` describes `program` (same layout as `sock_filter`), which the kernel only reads, during the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog) };
    if done == 0 {
        return Ok(());
    }
    Err(SysError::new("seccomp", "", RawErrno::from(std::io::Error::last_os_error())))
}
