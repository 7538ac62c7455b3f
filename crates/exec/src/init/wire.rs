//! What daemon, helper and step say to each other.
//!
//! ```text
//! helper socket   1 byte of flags + descriptors [ctl, job, (network or step), (stdin, stdout, stderr)]     one message per step
//! job (memfd)     u32 length of JSON | JSON of `Job` | bytes that `Source::Data` points into
//! ctl up          JSON of `Report`, one a message; `Console` comes with the terminal's descriptor, `Process` with a pidfd
//! ctl down        i32 signal number, one a message; end of stream means kill
//! ```

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rbuild_sys::Mount;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::spec::{NetMode, SecurityMode, TermSize, Ulimit};

/// Flag: a network namespace of its own.
pub(crate) const NEW_NET: u8 = 1;
/// Flag: a network namespace that comes as the third descriptor.
pub(crate) const JOIN_NET: u8 = 2;
/// Flag: another process of a step that runs; a pidfd of its first process comes as the third descriptor.
pub(crate) const JOIN_STEP: u8 = 4;
/// Descriptors in one message at most.
pub(crate) const FDS_MAX: usize = 6;
/// Largest report; paths are at most 4 KiB, JSON may need four characters for a byte.
pub(crate) const REPORT_MAX: usize = 32 * 1024;

/// Everything the first process of a step needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
    pub(crate) rootfs: Mount,
    pub(crate) readonly_root: bool,
    pub(crate) mounts: Vec<JobMount>,
    pub(crate) network: NetMode,
    pub(crate) security: SecurityMode,
    pub(crate) hostname: String,
    pub(crate) hosts: PathBuf,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) ulimits: Vec<Ulimit>,
    /// `cgroup.procs` files to write ourselves into.
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) tty: Option<TermSize>,
    pub(crate) remove_stubs_recursive: bool,
    /// The daemon wants to have further processes in the step.
    pub(crate) joinable: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JobMount {
    pub(crate) dest: String,
    pub(crate) source: Source,
    pub(crate) subpath: String,
    pub(crate) readonly: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    Mount(Mount),
    Data { offset: usize, len: usize, mode: u32, uid: u32, gid: u32 },
}

/// What a step's processes tell the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A handle on the step's first process is attached.
    Process,
    /// The terminal's other end is attached.
    Console,
    /// A path that was not in the root file system before and may be an empty stub after the run.
    Stub(Vec<u8>),
    /// The program is about to begin.
    Ready,
    /// It did not begin.
    Failed(Failure),
    /// The first process of the step, and so all of them, are gone.
    Exited { code: Option<u8>, signal: Option<i32> },
}

/// Puts `job` and the bytes it points into in memory that only we name.
pub(crate) fn write_job(job: &Job, data: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::Write;
    let json = serde_json::to_vec(job)?;
    let fd = rustix::fs::memfd_create("rbuild-job", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    let len = u32::try_from(json.len()).map_err(std::io::Error::other)?;
    file.write_all(&len.to_le_bytes())?;
    file.write_all(&json)?;
    file.write_all(data)?;
    Ok(file.into())
}

/// Reads what [`write_job`] wrote.
pub(crate) fn read_job(fd: OwnedFd) -> std::io::Result<(Job, Vec<u8>)> {
    use std::io::Seek;
    let mut file = std::fs::File::from(fd);
    file.rewind()?;
    let mut len = [0; 4];
    file.read_exact(&mut len)?;
    let mut json = vec![0; u32::from_le_bytes(len) as usize];
    file.read_exact(&mut json)?;
    let mut data = Vec::new();
    file.read_to_end(&mut data)?;
    Ok((serde_json::from_slice(&json)?, data))
}

/// Sends one message with descriptors.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    loop {
        let sent =
            rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL);
        match sent {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message; no bytes mean that the other end is closed.
pub(crate) fn receive(
    socket: impl AsFd,
    buf: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buf)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((received.bytes, fds))
}

/// Tells the daemon something. That it is gone is noticed elsewhere.
pub(crate) fn report(ctl: impl AsFd, report: &Report, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let json = serde_json::to_vec(report).map_err(|_| Errno::INVAL)?;
    send(ctl, &json, fds, SendFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_and_its_data_come_back() {
        let job = Job {
            args: vec!["/bin/true".into()],
            env: vec![],
            cwd: "/".into(),
            user: "0".into(),
            rootfs: Mount::Bind { source: "/r".into(), readonly: true },
            readonly_root: true,
            mounts: vec![],
            network: NetMode::None,
            security: SecurityMode::Insecure,
            hostname: "h".into(),
            hosts: "/h".into(),
            resolv_conf: "/r".into(),
            ulimits: vec![],
            cgroups: vec![],
            tty: Some(TermSize { rows: 1, cols: 2 }),
            remove_stubs_recursive: true,
            joinable: true,
        };
        let fd = write_job(&job, b"secret").unwrap();
        let (back, data) = read_job(fd).unwrap();
        assert_eq!(data, b"secret");
        assert_eq!(format!("{back:?}"), format!("{job:?}"));
    }

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        report(&a, &Report::Ready, &[]).unwrap();
        report(&a, &Report::Console, &[null.as_fd()]).unwrap();
        drop(a);
        let mut buf = [0; 64];
        let (n, fds) = receive(&b, &mut buf, RecvFlags::empty()).unwrap();
        assert_eq!((serde_json::from_slice::<Report>(&buf[..n]).unwrap(), fds.len()), (Report::Ready, 0));
        let (n, fds) = receive(&b, &mut buf, RecvFlags::empty()).unwrap();
        assert_eq!((serde_json::from_slice::<Report>(&buf[..n]).unwrap(), fds.len()), (Report::Console, 1));
        assert_eq!(receive(&b, &mut buf, RecvFlags::empty()).unwrap().0, 0);
    }
}
