//! Cache mounts that travel: archived here, filled there.

use std::io::Read;

use super::*;

fn options_of(id: &str) -> CacheMountOptions {
    CacheMountOptions {
        id: id.into(),
        purpose: CachePurpose::Steps,
        sharing: Sharing::Shared,
        base: None,
        description: "test".into(),
    }
}

/// What `id` holds, as an archive.
async fn packed(store: &Store, id: &str, files: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mount = store.cache_mount(options_of(id)).await.expect("mount");
    write(&mount.root().expect("root"), files);
    let mut archive = Vec::new();
    mount.archive(&mut archive).expect("archived");
    archive
}

/// The bytes, then an error.
struct Breaks(io::Cursor<Vec<u8>>);

impl Read for Breaks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the line broke")),
            count => Ok(count),
        }
    }
}

#[tokio::test]
async fn a_filled_mount_holds_what_the_other_held() {
    for kind in [SnapshotterKind::Native, SnapshotterKind::Auto] {
        let home = Home::new(kind);
        let archive = packed(&home.store, "a", &[("x/y", Some("text")), ("z", Some("more"))]).await;
        let there = Home::new(kind);
        assert!(!there.store.has_cache_mount("a", None));
        there
            .store
            .fill_cache_mount("a", None, "test", io::Cursor::new(archive.clone()))
            .await
            .expect("filled");
        assert!(there.store.has_cache_mount("a", None));
        let found = there.store.find_cache_mounts("a").await.expect("found");
        assert_eq!((found.len(), found[0].over_base), (1, false));
        let mut again = Vec::new();
        found[0].mount.archive(&mut again).expect("archived");
        assert_eq!(again, archive, "equal contents are equal bytes");
    }
}

#[tokio::test]
async fn a_mount_whose_archive_breaks_off_is_never_seen() {
    let home = Home::new(SnapshotterKind::Native);
    let archive = packed(&home.store, "a", &[("x", Some("text"))]).await;
    let there = Home::new(SnapshotterKind::Native);
    for cut in [0, archive.len() / 2, archive.len()] {
        let broken = Breaks(io::Cursor::new(archive[..cut].to_vec()));
        there.store.fill_cache_mount("a", None, "test", broken).await.expect_err("it broke");
        assert!(!there.store.has_cache_mount("a", None));
    }
    let there = there.reopen(SnapshotterKind::Native);
    assert!(there.store.find_cache_mounts("a").await.expect("looks").is_empty());
}

#[tokio::test]
async fn a_mount_that_somebody_has_for_himself_is_left_alone() {
    let home = Home::new(SnapshotterKind::Native);
    packed(&home.store, "a", &[("x", Some("text"))]).await;
    let own = CacheMountOptions { sharing: Sharing::Locked, ..options_of("a") };
    let taken = home.store.cache_mount(own).await.expect("mount");
    assert!(home.store.find_cache_mounts("a").await.expect("looks").is_empty());
    drop(taken);
    let found = home.store.find_cache_mounts("a").await.expect("looks");
    assert_eq!(found.len(), 1);
    // Names with a colon are not taken for a base.
    packed(&home.store, "b:c", &[("x", Some("text"))]).await;
    assert!(home.store.find_cache_mounts("b").await.expect("looks").is_empty());
}
