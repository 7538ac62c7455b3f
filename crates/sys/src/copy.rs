//! [`copy_file`]: the cheapest way the kernel has to make one file's bytes another's.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::{Context, Result, SysError};

/// Buffer for the plain way; large enough that the calls do not count, small enough for the stack's neighbourhood.
const BUFFER: usize = 256 * 1024;
/// Files up to this size are read and written as they are; a hole in them would save nothing worth the calls.
const SMALL: u64 = 16 * 1024;
/// At most this much per `copy_file_range`, so that a signal or a full disk is seen in time.
const RANGE: usize = 1 << 30;

/// Copies `len` bytes from the start of `src` to the start of `dst` and returns how many there were (less if `src` is
/// shorter). Tries a reflink, then `copy_file_range`, then read and write. Holes stay holes; `dst` gets its full length.
///
/// `dst` should be new and empty: what lies in it under a hole of `src` is not cleared. File offsets are not used,
/// though those of `src` may move.
pub fn copy_file(src: &File, dst: &File, len: u64) -> Result<u64> {
    let size = rustix::fs::fstat(src).on("fstat", "")?.st_size as u64;
    let len = len.min(size);
    if len == 0 {
        return Ok(0);
    }
    if len <= SMALL {
        return copy_small(src, dst, len);
    }
    if len == size && rustix::fs::ioctl_ficlone(dst, src).is_ok() {
        return Ok(len);
    }
    let mut fast = true;
    let mut at = 0;
    while let Some((start, end)) = next_data(src, at, len)? {
        copy_range(src, dst, start, end, &mut fast)?;
        at = end;
    }
    // A hole at the end still counts for the length.
    if rustix::fs::fstat(dst).on("fstat", "")?.st_size < len as i64 {
        rustix::fs::ftruncate(dst, len).on("ftruncate", "")?;
    }
    Ok(len)
}

/// One read and one write: for small files every further call costs more than the bytes.
fn copy_small(src: &File, dst: &File, len: u64) -> Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut buf = [0; SMALL as usize];
    let mut filled = 0;
    while filled < len as usize {
        match src.read_at(&mut buf[filled..len as usize], filled as u64).on("read", "")? {
            0 => break, // It was cut short meanwhile.
            n => filled += n,
        }
    }
    dst.write_all_at(&buf[..filled], 0).on("write", "")?;
    Ok(filled as u64)
}

/// The next stretch of data at or after `at`, below `len`.
fn next_data(src: &File, at: u64, len: u64) -> Result<Option<(u64, u64)>> {
    if at >= len {
        return Ok(None);
    }
    let start = match rustix::fs::seek(src, SeekFrom::Data(at)) {
        Ok(start) if start >= len => return Ok(None),
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // No hole support: it is all data.
        Err(Errno::INVAL) => return Ok(Some((at, len))),
        Err(errno) => return Err(SysError::new("lseek", "", errno)),
    };
    let end = rustix::fs::seek(src, SeekFrom::Hole(start)).on("lseek", "")?;
    Ok(Some((start, end.min(len))))
}

fn copy_range(src: &File, dst: &File, start: u64, end: u64, fast: &mut bool) -> Result<()> {
    let mut at = start;
    while *fast && at < end {
        let (mut from, mut to) = (at, at);
        let want = usize::try_from(end - at).unwrap_or(RANGE).min(RANGE);
        match rustix::fs::copy_file_range(src, Some(&mut from), dst, Some(&mut to), want) {
            // Some file systems answer 0 before the end: the plain way knows better.
            Ok(0) => *fast = false,
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC) => return Err(SysError::new("copy_file_range", "", Errno::NOSPC)),
            Err(Errno::DQUOT) => return Err(SysError::new("copy_file_range", "", Errno::DQUOT)),
            Err(_) => *fast = false,
        }
    }
    if at < end {
        copy_plain(src, dst, at, end).on("write", Path::new(""))?;
    }
    Ok(())
}

fn copy_plain(src: &File, dst: &File, mut at: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buf = vec![0; BUFFER];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        let n = src.read_at(&mut buf[..want], at)?;
        if n == 0 {
            break; // It was cut short meanwhile.
        }
        dst.write_all_at(&buf[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn holes_stay_holes_and_bytes_stay_bytes() {
        let src = tempfile::tempfile().unwrap();
        let dst = tempfile::tempfile().unwrap();
        src.set_len(64 << 20).unwrap();
        src.write_all_at(b"begin", 0).unwrap();
        src.write_all_at(b"middle", 32 << 20).unwrap();
        assert_eq!(copy_file(&src, &dst, u64::MAX).unwrap(), 64 << 20);
        let meta = dst.metadata().unwrap();
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let mut six = [0; 6];
        dst.read_exact_at(&mut six, 32 << 20).unwrap();
        assert_eq!(&six, b"middle");
    }

    #[test]
    fn a_shorter_length_copies_only_the_front() {
        let mut src = tempfile::tempfile().unwrap();
        let mut dst = tempfile::tempfile().unwrap();
        src.write_all(b"hello world").unwrap();
        assert_eq!(copy_file(&src, &dst, 5).unwrap(), 5);
        let mut text = String::new();
        dst.rewind().unwrap();
        dst.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn the_plain_way_gives_the_same_bytes() {
        let src = tempfile::tempfile().unwrap();
        let dst = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        src.write_all_at(&data, 0).unwrap();
        copy_plain(&src, &dst, 0, data.len() as u64).unwrap();
        let mut copy = vec![0; data.len()];
        dst.read_exact_at(&mut copy, 0).unwrap();
        assert!(copy == data);
    }
}
