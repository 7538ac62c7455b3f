use proptest::prelude::*;

use super::*;

fn pick(follow_links: bool, wildcard: bool, include: &[&str], exclude: &[&str]) -> ChecksumOptions {
    let list = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect();
    ChecksumOptions { follow_links, wildcard, include: list(include), exclude: list(exclude) }
}

async fn tree(store: &Store) -> Ref {
    let new = store.new_mutable(None, NewMutable::default()).await.expect("mutable");
    {
        let guard = new.tree().await.expect("tree");
        let root = guard.root();
        write(
            root,
            &[
                ("d/a.txt", Some("1")),
                ("d/b.log", Some("2")),
                ("d/sub/c.txt", Some("3")),
                ("top.txt", Some("1")),
            ],
        );
        root.symlink("d", "link").expect("links");
        root.symlink("a.txt", "d/la").expect("links");
        root.symlink("/nowhere", "broken").expect("links");
    }
    new.commit().await.expect("commits")
}

#[tokio::test]
async fn a_path_is_found_through_links_and_patterns() {
    let home = Home::new(SnapshotterKind::Native);
    let tree = tree(&home.store).await;
    let sum = async |path: &str, options: &ChecksumOptions| tree.checksum(path, options).await.expect(path);
    let plain = pick(false, false, &[], &[]);
    let follow = pick(true, false, &[], &[]);
    let a = sum("d/a.txt", &plain).await;
    assert_eq!(sum("top.txt", &plain).await, a, "names do not count");
    assert_eq!(sum("/link/../link/a.txt", &plain).await, a, "links on the way are followed");
    assert_ne!(sum("d/la", &plain).await, a);
    assert_eq!(sum("d/la", &follow).await, a);
    assert_eq!(sum("link", &follow).await, sum("d", &plain).await);
    assert_ne!(sum("link", &plain).await, sum("d", &plain).await);
    let error = tree.checksum("nope", &plain).await.expect_err("nothing there");
    assert!(error.is_not_found() && error.to_string().contains("\"/nope\": not found"), "{error}");
    assert!(tree.checksum("broken", &follow).await.expect_err("leads nowhere").is_not_found());

    let wild = pick(false, true, &[], &[]);
    assert_eq!(sum("d/*.txt", &wild).await, {
        let list = format!("a.txt{a}");
        Digest::of(list)
    });
    assert_eq!(sum("top.txt", &wild).await, a, "one match under its own name is its own digest");
    assert_eq!(sum("none*", &wild).await, Digest::of(""));
    assert_eq!(sum("link/*.txt", &wild).await, sum("d/*.txt", &wild).await);
}

#[tokio::test]
async fn patterns_choose_headers_and_files_in_order() {
    let home = Home::new(SnapshotterKind::Native);
    let tree = tree(&home.store).await;
    let plain = pick(false, false, &[], &[]);
    let own = async |path: &str| tree.checksum(path, &plain).await.expect(path);
    let dir_header =
        |mode: u32| FileHeader { mode: 0o040_000 | mode, ..FileHeader::default() }.hasher().finish();
    let header = dir_header(0o755);
    let (log, a) = (own("d/b.log").await, own("d/a.txt").await);
    // The directory above a chosen file counts with its header, before it.
    let chosen = tree.checksum("d", &pick(false, false, &["b.log"], &[])).await.expect("checksum");
    assert_eq!(chosen, Digest::of(format!("d{header}\0b.log{log}")));
    // With a slash at the end the directory itself does not.
    let inside = tree.checksum("d/", &pick(false, false, &["b.log"], &[])).await.expect("checksum");
    assert_eq!(inside, Digest::of(format!("b.log{log}")));
    let without =
        tree.checksum("d", &pick(false, false, &[], &["b.log", "la", "sub"])).await.expect("checksum");
    assert_eq!(without, Digest::of(format!("d{header}\0a.txt{a}")));
    let nothing = tree.checksum("d", &pick(false, false, &["zzz"], &[])).await.expect("checksum");
    assert_eq!(nothing, Digest::of(""));
}

#[tokio::test]
async fn answers_outlive_the_tree_and_the_daemon() {
    let home = Home::new(SnapshotterKind::Native);
    let made = tree(&home.store).await;
    let options = pick(false, false, &[], &[]);
    let known = made.checksum("d", &options).await.expect("checksum");
    let id = made.id();
    drop(made);
    let home = home.reopen(SnapshotterKind::Native);
    let made = home.store.get(&id).expect("reads").expect("is there");
    // Without its files only a kept answer can be right.
    let snapshot = made.node.snapshot().expect("committed");
    home.store.inner.snaps.remove(&snapshot).expect("removes");
    assert_eq!(made.checksum("d", &options).await.expect("kept"), known);
    assert!(made.checksum("top.txt", &options).await.is_err());
}

/// The digest of a directory, written down as the rule says it, recursively.
fn naive(dir: &Path) -> Digest {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(dir).expect("stat");
    let header = FileHeader {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.size(),
        ..Default::default()
    };
    let mut hash = header.hasher();
    if !meta.is_dir() {
        hash.update(std::fs::read(dir).expect("reads"));
        return hash.finish();
    }
    let mut text = format!("\0{}", hash.finish()).into_bytes();
    let mut names: Vec<_> =
        std::fs::read_dir(dir).expect("lists").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    for name in names {
        text.push(0);
        text.extend_from_slice(name.as_encoded_bytes());
        text.extend_from_slice(naive(&dir.join(&name)).to_string().as_bytes());
    }
    Digest::of(text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_tree_s_digest_is_that_of_the_rule(files in proptest::collection::btree_map("[abc](/[ab\\-]{1,2}){0,3}", "[x-z]{0,200}", 0..150)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let home = Home::new(SnapshotterKind::Native);
            let new = home.store.new_mutable(None, NewMutable::default()).await.expect("mutable");
            {
                let guard = new.tree().await.expect("tree");
                for (path, content) in &files {
                    // A path may be both a file and a directory of another: the first one wins.
                    let parent = Path::new(path).parent().filter(|p| *p != Path::new(""));
                    if parent.is_some_and(|parent| guard.root().mkdir_all(parent, 0o755).is_err()) || guard.root().exists(path).expect("looks") {
                        continue;
                    }
                    write(guard.root(), &[(path, Some(content))]);
                }
            }
            let made = new.commit().await.expect("commits");
            let rbuild_sys::Mount::Bind { source, .. } = made.mount().await.expect("mount") else { panic!("one layer is a bind") };
            let found = made.checksum("", &ChecksumOptions::default()).await.expect("checksum");
            assert_eq!(found, naive(&source));
        });
    }
}
