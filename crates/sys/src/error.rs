//! [`SysError`]: which system call failed, on which path, why, and what else is known.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A failed system call.
///
/// `errno` is the raw error number; [`SysError::kind`] and the conversion to [`io::Error`] keep it, so callers can tell
/// `ENOENT` from `ENOSPC`. `detail` carries what the kernel does not put in a number, for instance a mount context's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysError {
    /// Name of the call, for instance `openat2`.
    pub syscall: &'static str,
    /// The path or name the call was about (empty if there is none).
    pub path: PathBuf,
    /// Raw error number.
    pub errno: i32,
    /// More text, often empty.
    pub detail: String,
}

/// Result of everything in this crate.
pub type Result<T, E = SysError> = std::result::Result<T, E>;

impl SysError {
    /// An error of `syscall` about `path`.
    pub fn new(syscall: &'static str, path: impl AsRef<Path>, errno: impl Into<RawErrno>) -> SysError {
        SysError { syscall, path: path.as_ref().to_path_buf(), errno: errno.into().0, detail: String::new() }
    }

    /// The same error with `detail` added.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> SysError {
        self.detail = detail.into();
        self
    }

    /// Raw error number.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The error number in words, for sentences that name the call and the path themselves.
    pub fn reason(&self) -> String {
        let cause = io::Error::from_raw_os_error(self.errno).to_string();
        lower_first(cause.split(" (os error").next().unwrap_or(&cause))
    }

    /// The error number as `std` classifies it.
    pub fn kind(&self) -> io::ErrorKind {
        io::Error::from_raw_os_error(self.errno).kind()
    }

    /// The thing named does not exist (`ENOENT`).
    pub fn is_not_found(&self) -> bool {
        self.errno == libc::ENOENT
    }

    /// Something of that name exists already (`EEXIST`).
    pub fn is_exists(&self) -> bool {
        self.errno == libc::EEXIST
    }

    /// The file system or quota is full (`ENOSPC`, `EDQUOT`).
    pub fn is_no_space(&self) -> bool {
        self.errno == libc::ENOSPC || self.errno == libc::EDQUOT
    }

    /// A component is not a directory (`ENOTDIR`).
    pub fn is_not_dir(&self) -> bool {
        self.errno == libc::ENOTDIR
    }

    /// The kernel or file system does not know the call (`ENOSYS`, `EOPNOTSUPP`).
    pub fn is_unsupported(&self) -> bool {
        self.errno == libc::ENOSYS || self.errno == libc::EOPNOTSUPP
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.syscall)?;
        if !self.path.as_os_str().is_empty() {
            write!(f, " {}", self.path.display())?;
        }
        write!(f, ": {}", self.reason())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// The texts of the C library begin with a capital; ours are parts of longer sentences.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

impl std::error::Error for SysError {}

impl From<SysError> for io::Error {
    fn from(err: SysError) -> io::Error {
        // `io::Error::new` loses `raw_os_error`, but keeps the kind and the text, which is what callers print and match.
        io::Error::new(err.kind(), err)
    }
}

/// Anything that is an error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawErrno(pub i32);

impl From<i32> for RawErrno {
    fn from(errno: i32) -> Self {
        RawErrno(errno)
    }
}

impl From<rustix::io::Errno> for RawErrno {
    fn from(errno: rustix::io::Errno) -> Self {
        RawErrno(errno.raw_os_error())
    }
}

impl From<nix::errno::Errno> for RawErrno {
    fn from(errno: nix::errno::Errno) -> Self {
        RawErrno(errno as i32)
    }
}

impl From<io::Error> for RawErrno {
    fn from(err: io::Error) -> Self {
        RawErrno(err.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Adds the call and path to a bare error number.
pub(crate) trait Context<T> {
    /// `syscall` failed on `path`.
    fn on(self, syscall: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<RawErrno>> Context<T> for std::result::Result<T, E> {
    fn on(self, syscall: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|errno| SysError::new(syscall, path, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_call_path_cause_and_detail() {
        let err = SysError::new("openat2", "/a/b", libc::ENOENT).with_detail("looked twice");
        assert_eq!(err.to_string(), "openat2 /a/b: no such file or directory: looked twice");
        assert_eq!(io::Error::from(err).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn full_disk_is_not_a_missing_file() {
        let err = SysError::new("write", "", libc::ENOSPC);
        assert!(err.is_no_space() && !err.is_not_found());
        assert_eq!(io::Error::from(err).kind(), io::ErrorKind::StorageFull);
    }
}
