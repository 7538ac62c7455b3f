//! Every system call that needs `unsafe` or care, made safe.
//!
//! Central types: [`Root`], a directory below which paths from users, archives and layers are resolved and from which
//! nothing escapes; [`Mount`], what a mount is made of, and [`MountTree`], such a mount held by descriptor.
//! The crate does not know what its callers build: no images, no layers, no containers.
//! Invariant: `unsafe` stands only in files that allow it with a reason, each block with its proof; every path below a
//! root goes through `openat2`. Failure: [`SysError`] names call, path, number and, for mounts, the kernel's own words.
//! Nothing here is async and nothing can be cancelled; the calls are short, or the caller owns the thread.
#![deny(unsafe_code)]

mod copy;
mod disk;
mod error;
pub mod memory;
mod mount;
pub mod net;
pub mod process;
mod root;
pub mod seccomp;
mod stat;

pub use copy::copy_file;
pub use disk::{allocate, boot_id, disk_free, fsync_dir, overlay_supported, syncfs};
pub use error::{RawErrno, Result, SysError};
pub use mount::{FsMount, Mount, MountFlags, MountTree, make_private};
pub use root::{DirEntry, Root};
pub use stat::{FileKind, Stat, makedev};
