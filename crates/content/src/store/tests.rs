use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;
use rbuild_oci::{ByteStream, Provider};

use super::*;

fn store() -> (tempfile::TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    (dir, store)
}

fn desc(bytes: &[u8]) -> Descriptor {
    Descriptor::of("application/octet-stream", bytes)
}

fn ingests(store: &ContentStore) -> usize {
    fs::read_dir(&store.inner.ingests).unwrap().count()
}

#[test]
fn a_committed_blob_is_read_back_and_read_only() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    assert_eq!(store.info(&digest).unwrap(), Some(5));
    assert_eq!(store.read(&digest, 5).unwrap(), b"hello");
    let mode = fs::metadata(store.path(&digest)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
    assert_eq!(ingests(&store), 0);
}

#[test]
fn a_reader_with_a_limit_refuses_more() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    assert!(matches!(store.read(&digest, 4), Err(ContentError::TooLarge { size: 5, limit: 4, .. })));
}

#[test]
fn wrong_bytes_are_refused_by_both_digests_and_thrown_away() {
    let (_dir, store) = store();
    let wanted = desc(b"good!");
    let mut ingest = store.ingest("k", Some(&wanted)).unwrap();
    ingest.write(b"evil!").unwrap();
    let text = ingest.commit().unwrap_err().to_string();
    assert!(text.contains(&wanted.digest.to_string()), "{text}");
    assert!(text.contains(&Digest::of("evil!").to_string()), "{text}");
    assert_eq!(ingests(&store), 0);
    assert!(!store.has(&wanted.digest).unwrap());
}

#[test]
fn a_short_blob_is_an_error_that_names_both_sizes_and_can_be_resumed() {
    let (_dir, store) = store();
    let wanted = desc(b"0123456789");
    let mut ingest = store.ingest("k", Some(&wanted)).unwrap();
    ingest.write(b"01234").unwrap();
    let text = ingest.commit().unwrap_err().to_string();
    assert!(text.contains("is 5 bytes, expected 10"), "{text}");
    let mut ingest = store.ingest("k", Some(&wanted)).unwrap();
    assert_eq!(ingest.offset(), 5);
    ingest.write(b"56789").unwrap();
    assert_eq!(ingest.commit().unwrap(), (wanted.digest, 10));
}

#[test]
fn more_bytes_than_announced_stop_the_ingest_at_once() {
    let (_dir, store) = store();
    let mut ingest = store.ingest("k", Some(&desc(b"ab"))).unwrap();
    assert!(matches!(ingest.write(b"abc"), Err(ContentError::SizeMismatch { found: 3, expected: 2, .. })));
    drop(ingest);
    assert_eq!(ingests(&store), 0);
}

#[test]
fn two_ingests_of_one_key_do_not_mix() {
    let (_dir, store) = store();
    let wanted = desc(b"same bytes");
    let mut first = store.ingest("k", Some(&wanted)).unwrap();
    first.write(b"same").unwrap();
    let mut second = store.ingest("k", Some(&wanted)).unwrap();
    assert_eq!(second.offset(), 0);
    second.write(b"same bytes").unwrap();
    first.write(b" bytes").unwrap();
    assert_eq!(second.commit().unwrap().0, wanted.digest);
    assert_eq!(first.commit().unwrap().0, wanted.digest);
    assert_eq!(ingests(&store), 0);
    let mut third = store.ingest("k", Some(&wanted)).unwrap();
    third.write(b"s").unwrap();
    drop(third);
    assert_eq!(store.ingest("k", None).unwrap().offset(), 1, "the key is free again");
}

#[test]
fn opening_sweeps_what_nobody_will_resume() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let mut kept = store.ingest("kept", None).unwrap();
    kept.write(b"x").unwrap();
    let mut single = store.ingest("kept", None).unwrap();
    single.write(b"x").unwrap();
    std::mem::forget(single); // As if the process had died.
    drop(kept);
    assert_eq!(ingests(&store), 2);
    let reopened = ContentStore::open(dir.path()).unwrap();
    assert_eq!(ingests(&reopened), 1);
    assert_eq!(reopened.ingest("kept", None).unwrap().offset(), 1);
    let options = ContentOptions { stale_after: Duration::ZERO, ..ContentOptions::default() };
    std::thread::sleep(Duration::from_millis(5)); // Older than zero on a coarse clock.
    assert_eq!(ingests(&ContentStore::open_with(dir.path(), options).unwrap()), 0);
}

#[test]
fn sweeping_spares_what_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = ContentOptions { stale_after: Duration::ZERO, ..ContentOptions::default() };
    let store = ContentStore::open_with(dir.path(), options).unwrap();
    let mut first = store.ingest("k", None).unwrap();
    let mut second = store.ingest("k", None).unwrap();
    first.write(b"x").unwrap();
    second.write(b"x").unwrap();
    std::thread::sleep(Duration::from_millis(5)); // Older than zero on a coarse clock.
    store.sweep().unwrap();
    assert_eq!(ingests(&store), 2);
    first.commit().unwrap();
    second.commit().unwrap();
    assert!(store.has(&Digest::of("x")).unwrap());
}

#[test]
fn a_rotten_blob_is_never_served_as_whole() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    store.verify(&digest).unwrap();
    let path = store.path(&digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"hellp").unwrap();
    assert!(store.verify(&digest).unwrap_err().is_mismatch());
    assert!(store.read(&digest, 100).unwrap_err().is_mismatch());
}

#[test]
fn a_blob_that_rotted_since_the_last_start_is_found_out_and_taken_away() {
    let (dir, store) = store();
    let (digest, fine) = (store.put(b"hello").unwrap(), store.put(b"fine").unwrap());
    drop(store);
    let store = ContentStore::open(dir.path()).unwrap();
    let path = store.path(&digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"hellp").unwrap();
    assert!(store.open_blob(&digest).unwrap_err().is_mismatch());
    assert!(!store.has(&digest).unwrap());
    assert_eq!(store.put(b"hello").unwrap(), digest);
    assert_eq!(hash_file(&mut store.open_blob(&digest).unwrap()).unwrap(), (digest, 5));
    assert_eq!(hash_file(&mut store.open_blob(&fine).unwrap()).unwrap(), (fine, 4));
}

#[test]
fn deleting_keeps_open_readers_alive() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    let mut file = store.open_blob(&digest).unwrap();
    assert!(store.delete(&digest).unwrap());
    assert!(!store.delete(&digest).unwrap());
    assert!(store.open_blob(&digest).unwrap_err().is_not_found());
    assert_eq!(hash_file(&mut file).unwrap(), (digest, 5));
}

#[test]
fn walk_sees_blobs_and_nothing_else() {
    let (_dir, store) = store();
    let digest = store.put(b"hello").unwrap();
    fs::write(store.inner.blobs.join("README"), "foreign").unwrap();
    let mut seen = Vec::new();
    store.walk(|digest, size| seen.push((digest, size))).unwrap();
    assert_eq!(seen, [(digest, 5)]);
}

#[test]
fn root_a_full_disk_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mount = rbuild_sys::Mount::Tmpfs { size: Some(64 << 10), mode: 0o700 };
    let tree = rbuild_sys::MountTree::new(&mount).unwrap();
    let root = tree.root().unwrap();
    let store = ContentStore::open(root.proc_path()).unwrap();
    let mut ingest = store.ingest("big", None).unwrap();
    let err = (0..1000).find_map(|_| ingest.write(&[7; 4096]).err()).unwrap();
    assert!(err.is_no_space(), "{err}");
    assert_eq!(io::Error::from(err).kind(), io::ErrorKind::StorageFull);
    drop(ingest);
    assert_eq!(ingests(&store), 0, "a full disk gets its room back");
    drop(dir);
}

/// Gives `bytes` in small pieces and breaks off once after `breaks_at`.
#[derive(Debug)]
struct Flaky {
    bytes: &'static [u8],
    breaks_at: u64,
    opened: AtomicUsize,
}

#[async_trait]
impl Provider for Flaky {
    async fn open(&self, _desc: &Descriptor, offset: u64) -> io::Result<ByteStream> {
        let first = self.opened.fetch_add(1, Ordering::SeqCst) == 0;
        let end = if first { self.breaks_at as usize } else { self.bytes.len() };
        let mut parts: Vec<io::Result<Bytes>> =
            self.bytes[offset as usize..end].chunks(3).map(|chunk| Ok(Bytes::from_static(chunk))).collect();
        if first {
            parts.push(Err(io::Error::new(io::ErrorKind::ConnectionReset, "gone")));
        }
        Ok(stream::iter(parts).boxed())
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let (_dir, store) = store();
    let bytes = b"0123456789abcdef";
    let wanted = desc(bytes);
    let flaky = Flaky { bytes, breaks_at: 9, opened: AtomicUsize::new(0) };
    let err = store.fetch(&wanted, &flaky, |_| {}).await.unwrap_err();
    assert!(matches!(err, ContentError::Source { .. }), "{err}");
    let mut seen = Vec::new();
    store.fetch(&wanted, &flaky, |total| seen.push(total)).await.unwrap();
    assert_eq!(seen, [9, 12, 15, 16]);
    assert_eq!(store.read(&wanted.digest, 100).unwrap(), bytes);
    store.fetch(&wanted, &flaky, |_| {}).await.unwrap();
    assert_eq!(flaky.opened.load(Ordering::SeqCst), 2, "a present blob is not asked for");
}

#[tokio::test]
async fn a_lying_provider_is_found_out() {
    let (_dir, store) = store();
    let flaky = Flaky { bytes: b"evil", breaks_at: 0, opened: AtomicUsize::new(1) };
    let err = store.fetch(&desc(b"good"), &flaky, |_| {}).await.unwrap_err();
    assert!(matches!(err, ContentError::DigestMismatch { .. }), "{err}");
    let err = store.fetch(&desc(b"god"), &flaky, |_| {}).await.unwrap_err();
    assert!(matches!(err, ContentError::SizeMismatch { .. }), "{err}");
}

#[tokio::test]
async fn the_store_is_a_provider_from_any_offset() {
    let (_dir, store) = store();
    let bytes: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
    store.put(&bytes).unwrap();
    for offset in [0, 1, 262_144, 699_999, 700_000] {
        let stream = store.open(&desc(&bytes), offset).await.unwrap();
        let got: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert!(got.concat() == bytes[offset as usize..], "offset {offset}");
    }
    assert!(Provider::open(&store, &desc(&bytes), 700_001).await.is_err());
    let missing = Provider::open(&store, &desc(b"missing"), 0).await;
    assert_eq!(missing.err().map(|err| err.kind()), Some(io::ErrorKind::NotFound));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_way_of_cutting_and_resuming_gives_the_same_blob(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8),
        drops in proptest::collection::vec(any::<bool>(), 8),
    ) {
        let (_dir, store) = store();
        let whole = parts.concat();
        let mut ingest = store.ingest("k", Some(&desc(&whole))).unwrap();
        for (part, drop_here) in parts.iter().zip(drops) {
            ingest.write(part).unwrap();
            if drop_here {
                drop(ingest);
                ingest = store.ingest("k", Some(&desc(&whole))).unwrap();
            }
        }
        let (digest, size) = ingest.commit().unwrap();
        prop_assert_eq!((digest, size), (Digest::of(&whole), whole.len() as u64));
        prop_assert_eq!(store.read(&digest, size).unwrap(), whole);
    }
}
