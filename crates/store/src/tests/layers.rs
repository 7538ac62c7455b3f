use super::*;

#[tokio::test]
async fn root_a_pulled_image_holds_what_was_packed() {
    for (from, to) in [
        (SnapshotterKind::Overlay, SnapshotterKind::Overlay),
        (SnapshotterKind::Native, SnapshotterKind::Overlay),
        (SnapshotterKind::Overlay, SnapshotterKind::Native),
    ] {
        let image = image(from).await;
        let home = Home::new(to);
        let pulled = image.pull(&home.store).await;
        assert!(pulled.is_lazy() && pulled.is_loadable());
        assert_eq!(image.blobs.asked.load(Ordering::SeqCst), 0, "nothing is fetched before it is needed");
        assert_eq!(files(&pulled).await, image.files, "{from:?} {to:?}");
        assert!(!pulled.is_lazy());
        assert_eq!(pulled.checksum("", &ChecksumOptions::default()).await.expect("checksum"), image.checksum);
        let again = image.pull(&home.store).await;
        assert_eq!(again, pulled, "the same chain is the same ref");
    }
}

#[tokio::test]
async fn root_many_users_of_a_lazy_layer_fetch_it_once() {
    let image = image(SnapshotterKind::Overlay).await;
    let home = Home::new(SnapshotterKind::Overlay);
    let pulled = image.pull(&home.store).await;
    let mut users = tokio::task::JoinSet::new();
    for n in 0..20 {
        let pulled = pulled.clone();
        users.spawn(async move {
            let load = pulled.unlazy(None);
            if n % 3 == 0 {
                // Some lose interest in between; the others must still get it.
                drop(tokio::time::timeout(std::time::Duration::from_micros(50 * n), load).await);
            } else {
                load.await.expect("loads");
            }
        });
    }
    while let Some(done) = users.join_next().await {
        done.expect("no panic");
    }
    assert_eq!(files(&pulled).await, image.files);
    // Attempts that were given up end in the background; if one were left over this would not end.
    while home.store.inner.snaps.list().expect("lists").len() > 2 {
        home.store.inner.janitor.settle().await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn root_a_layer_that_unpacks_to_something_else_is_refused() {
    let image = image(SnapshotterKind::Overlay).await;
    let home = Home::new(SnapshotterKind::Overlay);
    let source = LayerSource {
        desc: image.layers[0].desc.clone(),
        diff_id: Digest::of("something else"),
        provider: image.blobs.clone(),
        origin: String::new(),
        created_ms: None,
        description: String::new(),
        record_type: RecordType::Regular,
        progress: None,
    };
    let lazy = home.store.layer(None, source).await.expect("layer");
    let error = lazy.mount().await.expect_err("refused");
    assert!(matches!(error, StoreError::DiffId { .. }), "{error}");
}

#[tokio::test]
async fn root_a_layer_without_an_entry_for_the_root_inherits_it() {
    // One archive with nothing but a file, as many tools write it.
    let mut archive = vec![0u8; 512 * 4];
    archive[..1].copy_from_slice(b"f");
    for (at, text) in [(100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0"), (124, "00000000001\0")] {
        archive[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    archive[136..148].copy_from_slice(b"00000000000\0");
    archive[156] = b'0';
    archive[257..265].copy_from_slice(b"ustar\x0000");
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|byte| u32::from(*byte)).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive[512] = b'x';
    let desc = Descriptor::of(rbuild_oci::media::OCI_LAYER, &archive);
    let blobs = Arc::new(Blobs::default());
    blobs.blobs.lock().insert(desc.digest, archive.into());

    let home = Home::new(SnapshotterKind::Overlay);
    let new = home.store.new_mutable(None, NewMutable::default()).await.expect("mutable");
    new.tree().await.expect("tree").root().chmod(".", 0o711).expect("chmod");
    let base = new.commit().await.expect("commits");
    for (parent, mode) in [(Some(&base), 0o711), (None, 0o755)] {
        let source = LayerSource {
            desc: desc.clone(),
            diff_id: desc.digest,
            provider: blobs.clone(),
            origin: String::new(),
            created_ms: None,
            description: String::new(),
            record_type: RecordType::Regular,
            progress: None,
        };
        let layer = home.store.layer(parent, source).await.expect("layer");
        assert_eq!(files(&layer).await, ["f=x"]);
        let tree = layer.tree().await.expect("tree");
        assert_eq!(tree.root().stat(".").expect("stat").permissions(), mode);
    }
}

#[derive(Debug)]
struct Factory(Arc<Blobs>);

#[async_trait]
impl ProviderFactory for Factory {
    async fn provider(&self, origin: &str, _: &Descriptor) -> io::Result<Arc<dyn Provider>> {
        assert_eq!(origin, "test");
        Ok(self.0.clone())
    }

    fn serves(&self, origin: &str) -> bool {
        origin == "test"
    }
}

#[tokio::test]
async fn root_after_a_restart_the_source_of_a_lazy_layer_can_be_given_again() {
    let image = image(SnapshotterKind::Overlay).await;
    let home = Home::new(SnapshotterKind::Overlay);
    let id = image.pull(&home.store).await.id();
    let home = home.reopen(SnapshotterKind::Overlay);
    let lazy = home.store.get(&id).expect("reads").expect("is there");
    assert!(!lazy.is_loadable());
    let error = lazy.mount().await.expect_err("no source");
    assert!(error.is_source_gone(), "{error}");
    assert_eq!(image.pull(&home.store).await, lazy);
    assert!(lazy.is_loadable());
    assert_eq!(files(&lazy).await, image.files);

    let other = Home::new(SnapshotterKind::Overlay);
    let id = image.pull(&other.store).await.id();
    let other = other.reopen(SnapshotterKind::Overlay);
    other.store.set_provider_factory(Arc::new(Factory(image.blobs.clone())));
    let lazy = other.store.get(&id).expect("reads").expect("is there");
    assert_eq!(files(&lazy).await, image.files);
}

#[tokio::test]
async fn root_layers_of_a_build_are_known_by_their_chain_afterwards() {
    let home = Home::new(SnapshotterKind::Overlay);
    let built = commit(&home.store, None, &[("a", Some("1"))]).await;
    let layers = built.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    let again = built.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    assert_eq!(layers[0].desc, again[0].desc, "made once");
    let image = TestImage { layers, blobs: Arc::default(), files: Vec::new(), checksum: Digest::of("") };
    assert_eq!(image.pull(&home.store).await, built, "pulling what was built is no pull");
}

#[tokio::test]
async fn root_another_compression_keeps_the_archive() {
    let image = image(SnapshotterKind::Overlay).await;
    let home = Home::new(SnapshotterKind::Overlay);
    let pulled = image.pull(&home.store).await;
    let zstd = CompressionOptions { kind: rbuild_oci::Compression::Zstd, ..CompressionOptions::default() };
    let any = pulled.layers(&zstd, false, None).await.expect("layers");
    assert!(any.iter().all(|layer| !layer.is_local), "good enough where it is");
    assert_eq!(any[0].desc.digest, image.layers[0].desc.digest);
    pulled.fetch_blob(&any[0], None).await.expect("fetches");
    assert!(home.store.content().has(&any[0].desc.digest).expect("looks"));
    let forced = pulled.layers(&zstd, true, None).await.expect("layers");
    for (new, old) in forced.iter().zip(&image.layers) {
        assert_eq!(new.diff_id, old.diff_id);
        assert!(new.is_local && new.desc.media_type.ends_with("zstd"), "{:?}", new.desc);
    }
}

#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicUsize,
    extracted: AtomicUsize,
}

impl LayerProgress for Counter {
    fn bytes(&self, _: &Descriptor, current: u64, total: u64) {
        assert!(current <= total);
        if current == total {
            self.bytes.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn extracted(&self, _: &Descriptor) {
        self.extracted.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn root_progress_tells_of_each_layer() {
    let image = image(SnapshotterKind::Overlay).await;
    let home = Home::new(SnapshotterKind::Overlay);
    let counter = Arc::new(Counter::default());
    image.pull(&home.store).await.unlazy(Some(counter.clone())).await.expect("loads");
    assert!(counter.bytes.load(Ordering::SeqCst) >= 2);
    assert_eq!(counter.extracted.load(Ordering::SeqCst), 2);
}
