//! Owners by name, looked up in the files of an image.

use rbuild_sys::Root;

use super::error::{FileError, Result};

/// Larger files are refused: a real one has kilobytes.
const FILE_MAX: u64 = 10 << 20;

/// Who is to own what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Uid and primary gid of a user in `/etc/passwd` below `root`; nothing if it is not there.
pub(crate) fn find_user(root: &Root, name: &str) -> Result<Option<Owner>> {
    let Some(bytes) = read(root, "etc/passwd", "user", name)? else { return Ok(None) };
    let found = entries(&bytes).find_map(|fields| {
        let fields: Vec<&str> = fields.collect();
        let [user, _, uid, gid, ..] = fields.as_slice() else { return None };
        (*user == name).then(|| Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? }))?
    });
    Ok(found)
}

/// Gid of a group in `/etc/group` below `root`; nothing if it is not there.
pub(crate) fn find_group(root: &Root, name: &str) -> Result<Option<u32>> {
    let Some(bytes) = read(root, "etc/group", "group", name)? else { return Ok(None) };
    let found = entries(&bytes).find_map(|fields| {
        let fields: Vec<&str> = fields.collect();
        let [group, _, gid, ..] = fields.as_slice() else { return None };
        (*group == name).then(|| gid.parse().ok())?
    });
    Ok(found)
}

/// Regular files only: nothing else is opened. No file is a file without entries.
fn read(root: &Root, path: &str, what: &'static str, name: &str) -> Result<Option<String>> {
    match root.read_limited(path, FILE_MAX) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => {
            Err(FileError::Owner { what, name: name.chars().take(80).collect(), reason: error.to_string() })
        }
    }
}

fn entries(text: &str) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_regular_files_only() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(find_user(&root, "app").unwrap(), None);
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:\n#c\nbad\napp:x:1000:100::/:\n")
            .unwrap();
        std::fs::write(dir.path().join("etc/group"), "users:x:100:\n").unwrap();
        assert_eq!(find_user(&root, "app").unwrap(), Some(Owner { uid: 1000, gid: 100 }));
        assert_eq!(find_group(&root, "users").unwrap(), Some(100));
        assert_eq!(find_user(&root, "nobody").unwrap(), None);
        root.unlink("etc/group").unwrap();
        root.mknod("etc/group", 0o010_644, 0).unwrap();
        assert!(find_group(&root, "users").is_err());
    }
}
