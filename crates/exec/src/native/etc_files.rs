//! `hosts` and `resolv.conf` files that are bound into steps: one per distinct content, shared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rbuild_sys::Root;

use crate::error::ExecError;

/// Contents kept for the next step. Most builds share two; who has more distinct hosts files pays for each.
const KEPT: usize = 64;

/// The directory of such files.
#[derive(Debug)]
pub(super) struct EtcFiles {
    dir: PathBuf,
    kept: Mutex<HashMap<String, EtcFile>>,
    next: AtomicU64,
}

/// One file; removed with its last handle.
#[derive(Debug, Clone)]
pub(super) struct EtcFile(Arc<Owned>);

#[derive(Debug)]
struct Owned(PathBuf);

impl EtcFile {
    pub(super) fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // One unlink; what stays is swept at the next start.
        if let Err(err) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), error = %err, "file stays");
        }
    }
}

impl EtcFiles {
    /// Makes or empties the directory.
    pub(super) fn create(state_dir: &Path) -> Result<EtcFiles, ExecError> {
        let dir = state_dir.join("etc");
        std::fs::create_dir_all(&dir)
            .map_err(|err| super::io_error(&format!("make {}", dir.display()), &err))?;
        Root::open(&dir)?.clear()?;
        Ok(EtcFiles { dir, kept: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// A file with this content.
    pub(super) fn file(&self, content: String) -> Result<EtcFile, ExecError> {
        let mut kept = self.kept.lock();
        if let Some(file) = kept.get(&content) {
            return Ok(file.clone());
        }
        let path = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::write(&path, &content)
            .map_err(|err| super::io_error(&format!("write {}", path.display()), &err))?;
        let file = EtcFile(Arc::new(Owned(path)));
        if kept.len() < KEPT {
            kept.insert(content, file.clone());
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_shares_a_file_and_the_surplus_goes() {
        let dir = tempfile::tempdir().unwrap();
        let files = EtcFiles::create(dir.path()).unwrap();
        let a = files.file("a".into()).unwrap();
        assert_eq!(a.path(), files.file("a".into()).unwrap().path());
        for i in 0..2 * KEPT {
            files.file(format!("{i}")).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path().join("etc")).unwrap().count(), KEPT);
    }
}
