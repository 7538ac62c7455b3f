//! The loopback interface of a new network namespace.
#![allow(unsafe_code, reason = "interface ioctls have no safe wrapper")]

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Context, RawErrno, Result, SysError};

/// Switches the interface `lo` of the caller's network namespace on; the kernel then gives it its addresses.
pub fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .on("socket", "")?;
    // SAFETY: all zeroes is a valid `ifreq`: numbers and a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which `request` is and which lives through the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done == 0 {
        return Ok(());
    }
    Err(SysError::new("ioctl SIOCSIFFLAGS", "lo", RawErrno::from(std::io::Error::last_os_error())))
}
