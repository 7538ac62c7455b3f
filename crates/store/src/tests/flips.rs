//! One flipped bit in the store's own files: found out, or without effect on what is built from them.

use super::*;

/// Flips per run; each opens a copy of the root.
const FLIPS: u64 = 60;
/// One in so many hits the database, which has the most to lose.
const DATABASE: u64 = 2;

struct Made {
    home: TempDir,
    tree: RefId,
    files: Vec<String>,
    layers: Vec<Digest>,
    key: Digest,
}

async fn made() -> Made {
    let Home { dir, store } = Home::new(SnapshotterKind::Native);
    let base = commit(&store, None, &[("a", Some("1"))]).await;
    let tree = commit(&store, Some(&base), &[("b", Some("2"))]).await;
    let layers = tree.layers(&CompressionOptions::default(), false, None).await.expect("layers");
    let key = Digest::of("key");
    let row = RecordRow {
        id: Digest::of("record"),
        vertex: key,
        op: key,
        name: "RUN x".into(),
        created_ms: 0,
        inputs: Vec::new(),
        outputs: vec![tree.id()],
    };
    store.put_record(row, std::slice::from_ref(&tree), &[key], false).await.expect("puts");
    let context = store.local_context("key", "context").await.expect("context");
    drop(context.finish(b"index".to_vec(), Vec::new()).await.expect("finishes"));
    let made = Made {
        tree: tree.id(),
        files: files(&tree).await,
        layers: layers.iter().map(|layer| layer.desc.digest).collect(),
        key,
        home: dir,
    };
    // Half in the database, half in the journal.
    store.sync().await.expect("syncs");
    store.kv_put("test", b"k", b"v").await.expect("puts");
    commit(&store, Some(&tree), &[("c", Some("3"))]).await;
    drop((base, tree, store));
    made
}

/// Files of the root that are the store's own: all but the contents of snapshots.
fn own_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("lists") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                todo.extend((!path.ends_with("snapshots")).then_some(path));
            } else if path.metadata().expect("stat").len() > 0 && !path.ends_with("reserve") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, random: u64) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("opens");
    let bytes = std::fs::read(path).expect("reads");
    // Most of a young database is zeros that nobody looks at.
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let at = used[usize::try_from((random >> 3) % used.len() as u64).expect("small")];
    file.write_all_at(&[bytes[at] ^ (1 << (random & 7))], at as u64).expect("writes");
}

/// What the store says after the flip; an error is as good as the truth.
async fn look(made: &Made, root: &Path) -> Result<()> {
    let store = Store::open(root, options(SnapshotterKind::Native))?;
    store.inner.janitor.settle().await;
    let usage = store.usage(&[]).await?;
    assert!(usage.len() <= 10, "{usage:?}");
    if let Some(tree) = store.get(&made.tree)? {
        assert_eq!(files(&tree).await, made.files);
        for layer in tree.layers(&CompressionOptions::default(), false, None).await? {
            let mut bytes = Vec::new();
            let mut blob = store.content().open_blob(&layer.desc.digest)?;
            io::Read::read_to_end(&mut blob, &mut bytes).expect("reads");
            assert_eq!(Digest::of(&bytes), layer.desc.digest);
            assert!(made.layers.contains(&layer.desc.digest));
        }
    }
    if let Some(row) = store.record_by_key(&made.key)? {
        assert_eq!(row.outputs, [made.tree]);
    }
    Ok(())
}

#[tokio::test]
async fn a_flipped_bit_is_found_out_or_harmless() {
    let made = made().await;
    let seed = std::env::var("RBUILD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| crate::rows::now_ms().unsigned_abs());
    let names = own_files(made.home.path());
    assert!(names.iter().any(|path| path.ends_with("meta.db")), "{names:?}");
    assert!(names.iter().any(|path| path.ends_with("journal")), "{names:?}");
    let (mut random, mut found) = (seed, 0);
    for round in 0..FLIPS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let copy = tempfile::tempdir().expect("temp dir");
        let cp = std::process::Command::new("cp")
            .arg("-a")
            .arg(made.home.path().join("."))
            .arg(copy.path())
            .status();
        assert!(cp.expect("cp").success());
        let chosen = usize::try_from((random >> 40) % names.len() as u64).expect("small");
        let database = names.iter().find(|path| path.ends_with("meta.db")).expect("is there");
        let name = if round % DATABASE == 0 { database } else { &names[chosen] };
        let path = copy.path().join(name.strip_prefix(made.home.path()).expect("below"));
        flip(&path, random >> 7);
        let what = format!("seed {seed}, round {round}: {}", path.display());
        let looked = std::panic::AssertUnwindSafe(look(&made, copy.path()));
        match futures::FutureExt::catch_unwind(looked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                found += 1;
                println!("{what}: {error}");
            }
            Err(_) => panic!("{what}"),
        }
    }
    println!("{found} of {FLIPS} were found out, the others had no effect");
}
