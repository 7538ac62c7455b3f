//! Reading a ref's files for a frontend. Everything goes through `sys::Root`: links stay inside the ref.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use rbuild_frontend::{BuildError, DirEntry, ErrorCode, FileRange};
use rbuild_store::StoreError;
use rbuild_sys::{Root, Stat, SysError};

/// More than a Dockerfile or an ignore file ever is; a frontend that wants more reads ranges.
const MAX_READ: u64 = 64 << 20;

/// Runs disk work off the async runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BuildError::new(ErrorCode::Internal, format!("reading files: {error}"))))
}

pub(crate) fn store_error(error: &StoreError) -> BuildError {
    let code = match error {
        error if error.is_no_space() => ErrorCode::ResourceExhausted,
        error if error.is_not_found() => ErrorCode::NotFound,
        _ => ErrorCode::Unknown,
    };
    BuildError::new(code, error.to_string())
}

/// The wording for a missing file is upstream's: tools look for it.
fn at(path: &str, verb: &str) -> impl Fn(SysError) -> BuildError {
    let (path, verb) = (path.to_owned(), verb.to_owned());
    move |error| {
        let code = if error.is_not_found() { ErrorCode::NotFound } else { ErrorCode::Unknown };
        BuildError::new(code, format!("{verb} {path}: {}", error.reason()))
    }
}

pub(crate) fn read_file(root: &Root, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, BuildError> {
    let stat = root.stat_follow(path).map_err(at(path, "open"))?;
    if stat.mode & 0o170_000 != 0o100_000 {
        return Err(BuildError::new(ErrorCode::Unknown, format!("{path} is not a regular file")));
    }
    let file = root.open_file(path).map_err(at(path, "open"))?;
    let failed = |error: std::io::Error| BuildError::new(ErrorCode::Unknown, format!("read {path}: {error}"));
    let size = file.metadata().map_err(failed)?.len();
    let offset = range.map_or(0, |range| range.offset);
    let wanted = range.map_or(0, |range| range.length);
    let rest = size.saturating_sub(offset);
    let length = if wanted == 0 { rest } else { wanted.min(rest) };
    if length > MAX_READ {
        let text = format!("read {path}: {length} bytes at once, at most {MAX_READ}");
        return Err(BuildError::new(ErrorCode::ResourceExhausted, text));
    }
    if offset == 0 {
        let mut data = Vec::new();
        file.take(length).read_to_end(&mut data).map_err(failed)?;
        return Ok(data);
    }
    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    while filled < data.len() {
        let count = file.read_at(&mut data[filled..], offset + filled as u64).map_err(failed)?;
        if count == 0 {
            break;
        }
        filled += count;
    }
    data.truncate(filled);
    Ok(data)
}

pub(crate) fn read_dir(root: &Root, path: &str, include: &str) -> Result<Vec<DirEntry>, BuildError> {
    let dir = root.open_dir(path).map_err(at(path, "open"))?;
    let mut names = Vec::new();
    for entry in dir.read_dir().map_err(at(path, "read"))? {
        let name = entry.name.to_string_lossy().into_owned();
        let matched = include.is_empty()
            || rbuild_patterns::glob_match(include, &name)
                .map_err(|error| BuildError::invalid(format!("pattern `{include}`: {error}")))?;
        if matched {
            names.push((name, entry.name));
        }
    }
    names.sort();
    let mut entries = Vec::with_capacity(names.len());
    // As in a transfer: further names of a file are links to its first one.
    let mut first_names: HashMap<(u64, u64), String> = HashMap::new();
    for (name, raw) in names {
        let stat = dir.stat(&raw).map_err(at(&name, "lstat"))?;
        let mut link = link_name(&dir, std::path::Path::new(&raw), &stat)?;
        if stat.is_file() && stat.nlink > 1 {
            match first_names.entry((stat.dev, stat.ino)) {
                Entry::Occupied(first) => link.clone_from(first.get()),
                Entry::Vacant(first) => {
                    first.insert(name.clone());
                }
            }
        }
        entries.push(dir_entry(name, &stat, link));
    }
    Ok(entries)
}

pub(crate) fn stat_file(root: &Root, path: &str) -> Result<DirEntry, BuildError> {
    let found = root.resolve(path).map_err(at(path, "lstat"))?;
    let stat = root.stat(&found).map_err(at(path, "lstat"))?;
    let name = found.file_name().unwrap_or_default().to_string_lossy();
    Ok(dir_entry(name.into_owned(), &stat, String::new()))
}

fn link_name(root: &Root, path: &std::path::Path, stat: &Stat) -> Result<String, BuildError> {
    if stat.mode & 0o170_000 != 0o120_000 {
        return Ok(String::new());
    }
    let target = root.read_link(path).map_err(at(&path.to_string_lossy(), "readlink"))?;
    Ok(String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned())
}

fn dir_entry(path: String, stat: &Stat, link_name: String) -> DirEntry {
    DirEntry {
        path,
        mode: rbuild_session::mode::from_unix(stat.mode),
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mtime_ns: stat.mtime_ns,
        link_name,
        dev_major: 0,
        dev_minor: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_names_of_a_file_are_links_to_the_first() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b"), "x").unwrap();
        for name in ["a", "c"] {
            std::fs::hard_link(dir.path().join("b"), dir.path().join(name)).unwrap();
        }
        let entries = read_dir(&Root::open(dir.path()).unwrap(), "/", "").unwrap();
        let links: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.link_name.as_str())).collect();
        assert_eq!(links, [("a", ""), ("b", "a"), ("c", "a")]);
    }

    #[test]
    fn links_do_not_lead_out_and_ranges_are_cut_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "0123456789").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(read_file(&root, "/f", None).unwrap(), b"0123456789");
        let range = |offset, length| Some(FileRange { offset, length });
        assert_eq!(read_file(&root, "f", range(8, 100)).unwrap(), b"89");
        assert_eq!(read_file(&root, "f", range(80, 1)).unwrap(), b"");
        assert_eq!(read_file(&root, "out", None).unwrap_err().code, ErrorCode::NotFound);
        assert_eq!(stat_file(&root, "out").unwrap_err().code, ErrorCode::NotFound);
        std::os::unix::fs::symlink("f", dir.path().join("in")).unwrap();
        let entry = stat_file(&root, "in").unwrap();
        assert_eq!((entry.path.as_str(), entry.size, entry.link_name.as_str()), ("f", 10, ""));
        let names: Vec<_> = read_dir(&root, "/", "").unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(names, ["f", "in", "out"]);
    }
}
