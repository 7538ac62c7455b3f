//! A full disk: a small tmpfs as the root directory.

use super::*;

/// A tmpfs mounted on a directory, unmounted when dropped.
pub(super) struct Small(pub(super) TempDir);

impl Small {
    pub(super) fn new(bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let options = std::ffi::CString::new(format!("size={bytes}")).expect("text");
        rustix::mount::mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("mounts");
        Self(dir)
    }

    /// Fills what is left of the disk.
    pub(super) fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = std::fs::File::create(&path).expect("creates");
        for size in [1 << 16, 1 << 12, 64, 1] {
            while io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).expect("unmounts");
    }
}

#[tokio::test]
async fn root_a_full_disk_is_told_apart_and_survived() {
    let disk = Small::new(16 << 20);
    let root = disk.0.path().join("root");
    let store = Store::open(&root, options(SnapshotterKind::Native)).expect("opens");
    let before = commit(&store, None, &[("f", Some("before"))]).await;
    for round in 0..3 {
        let filler = disk.fill();
        // A sync has to write the database: it fails, and redb refuses everything from then on.
        store.kv_put("test", b"key", &[round; 100]).await.ok();
        let error = store.sync().await.err();
        let mut errors: Vec<StoreError> = error.into_iter().collect();
        for _ in 0..40 {
            if let Err(error) = store.kv_put("test", &[round], &vec![7; 20_000]).await {
                errors.push(error);
            }
        }
        assert!(errors.iter().any(StoreError::is_no_space), "{errors:?}");
        let text = errors.iter().find(|error| error.is_no_space()).map(ToString::to_string);
        assert!(text.is_some_and(|text| text.starts_with("no space left on device")));
        std::fs::remove_file(filler).expect("removes");
        // The same daemon goes on.
        let after = commit(&store, Some(&before), &[("g", Some("after"))]).await;
        assert_eq!(files(&after).await, ["f=before", "g=after"]);
        store.sync().await.expect("syncs");
    }
    let id = before.id();
    drop((before, store));
    let store = Store::open(&root, options(SnapshotterKind::Native)).expect("opens again");
    assert_eq!(files(&store.get(&id).expect("reads").expect("kept")).await, ["f=before"]);
}
