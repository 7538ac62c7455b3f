use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::filesync::{TransferCounter, shown};

/// Everything that is to arrive, as text.
pub(super) fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut queue = vec![root.to_path_buf()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                queue.push(path.clone());
                "dir".to_owned()
            } else if meta.is_file() {
                format!(
                    "{} bytes {}",
                    meta.len(),
                    rbuild_digest::Digest::of(fs::read(&path).unwrap()).short()
                )
            } else {
                format!("special {}", meta.rdev())
            };
            let time = (meta.mtime(), meta.mtime_nsec());
            lines.push(format!("{shown} {:o} {}:{} {time:?} {what}", meta.mode(), meta.uid(), meta.gid()));
        }
    }
    lines.sort();
    lines
}

pub(super) fn sample(root: &Path) {
    let at = |path: &str| root.join(path);
    fs::create_dir_all(at("a/deep/er")).unwrap();
    fs::create_dir(at("a.b")).unwrap();
    fs::create_dir(at("sticky")).unwrap();
    fs::write(at("a/small"), "hello").unwrap();
    fs::write(at("a/empty"), "").unwrap();
    fs::write(at("a/deep/er/big"), vec![7; 3_000_000]).unwrap();
    fs::write(at("tool"), "#!/bin/sh\n").unwrap();
    fs::write(at("name with é"), "x").unwrap();
    symlink("a/small", at("link")).unwrap();
    symlink("/etc/passwd", at("outside")).unwrap();
    fs::hard_link(at("a/small"), at("z-second-name")).unwrap();
    let chmod = |path: &str, bits| fs::set_permissions(at(path), PermissionsExt::from_mode(bits)).unwrap();
    chmod("tool", 0o4755);
    chmod("sticky", 0o1777);
    chmod("a/deep", 0o500);
}

#[tokio::test]
async fn root_a_tree_arrives_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(from.path());
    let index = sync_all(from.path(), to.path(), None).await.unwrap();
    assert_eq!(describe(from.path()), describe(to.path()));
    let inode = |path: &str| fs::metadata(to.path().join(path)).unwrap().ino();
    assert_eq!(inode("a/small"), inode("z-second-name"));
    let small = index.get("a/small").unwrap();
    assert_eq!(small.digest, digest(&small.stat, b"hello"));
    assert_eq!(index.get("z-second-name").unwrap().digest, small.digest);
    let big = index.get("a/deep/er/big").unwrap();
    assert_eq!(big.digest, digest(&big.stat, &vec![7; 3_000_000]));
    assert_eq!(index.len(), describe(to.path()).len());
}

#[tokio::test]
async fn root_only_what_changed_is_asked_for() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(from.path());
    let at = |path: &str| from.path().join(path);
    let first = sync_all(from.path(), to.path(), None).await.unwrap();
    let counter = TransferCounter::new();
    let options = ReceiveOptions { counter: counter.clone(), ..ReceiveOptions::default() };
    let again =
        sync(from.path(), to.path(), Some(&first), FileSyncRequest::default(), &options).await.unwrap();
    assert_eq!((counter.files(), &again), (0, &first));

    fs::write(at("a/small"), "other").unwrap(); // and so its second name
    fs::remove_dir_all(at("a/deep")).unwrap();
    fs::write(at("a/deep"), "a file now").unwrap();
    fs::remove_file(at("tool")).unwrap();
    fs::create_dir(at("tool")).unwrap();
    fs::write(at("tool/inside"), "1").unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("elsewhere", at("link")).unwrap();
    fs::remove_dir(at("a.b")).unwrap();
    let counter = TransferCounter::new();
    let options = ReceiveOptions { counter: counter.clone(), ..ReceiveOptions::default() };
    let third =
        sync(from.path(), to.path(), Some(&again), FileSyncRequest::default(), &options).await.unwrap();
    assert_eq!(describe(from.path()), describe(to.path()));
    assert_eq!(counter.files(), 3);
    assert_eq!(third.get("z-second-name").unwrap().digest, third.get("a/small").unwrap().digest);
    let from_scratch = tempfile::tempdir().unwrap();
    assert_eq!(third, sync_all(from.path(), from_scratch.path(), None).await.unwrap());
}

#[tokio::test]
async fn root_a_directory_without_index_is_emptied_first() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("new"), "1").unwrap();
    fs::create_dir(to.path().join("old")).unwrap();
    fs::write(to.path().join("old/x"), "1").unwrap();
    sync_all(from.path(), to.path(), None).await.unwrap();
    assert_eq!(describe(from.path()), describe(to.path()));
}

#[tokio::test]
async fn root_patterns_decide_what_is_sent() {
    let from = tempfile::tempdir().unwrap();
    sample(from.path());
    fs::create_dir_all(from.path().join("node_modules/x")).unwrap();
    fs::write(from.path().join("node_modules/x/y"), "").unwrap();
    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let cases: [(FileSyncRequest, &[&str]); 4] = [
        (
            FileSyncRequest {
                exclude: list(&["node_modules", "a", "name*", "sticky", "a.b", "z*"]),
                ..Default::default()
            },
            &["link", "outside", "tool"],
        ),
        (
            FileSyncRequest { include: list(&["a/deep/er/b*"]), ..Default::default() },
            &["a", "a/deep", "a/deep/er", "a/deep/er/big"],
        ),
        (FileSyncRequest { follow_paths: list(&["link"]), ..Default::default() }, &["a", "a/small", "link"]),
        // The first name of the file is left out, so the second is the file.
        (FileSyncRequest { include: list(&["z*"]), ..Default::default() }, &["z-second-name"]),
    ];
    for (request, expected) in cases {
        let to = tempfile::tempdir().unwrap();
        let index =
            sync(from.path(), to.path(), None, request.clone(), &ReceiveOptions::default()).await.unwrap();
        let paths: Vec<_> = index.entries().iter().map(|entry| shown(&entry.stat.path)).collect();
        assert_eq!(paths, expected, "{request:?}");
    }
}

#[tokio::test]
async fn root_merging_keeps_what_is_there_and_replaces_links() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("dir")).unwrap();
    fs::write(from.path().join("dir/file"), "new").unwrap();
    fs::write(from.path().join("top"), "new").unwrap();
    fs::write(to.path().join("mine"), "kept").unwrap();
    fs::write(victim.path().join("top"), "safe").unwrap();
    symlink(victim.path(), to.path().join("dir")).unwrap();
    symlink(victim.path().join("top"), to.path().join("top")).unwrap();
    let options = ReceiveOptions { merge: true, owner: Some((0, 0)), ..ReceiveOptions::default() };
    sync(from.path(), to.path(), None, FileSyncRequest::default(), &options).await.unwrap();
    assert_eq!(fs::read_to_string(to.path().join("mine")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(to.path().join("dir/file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(to.path().join("top")).unwrap(), "new");
    assert_eq!(fs::read_to_string(victim.path().join("top")).unwrap(), "safe");
    assert!(!victim.path().join("file").exists());
}

#[tokio::test]
async fn root_any_name_and_attribute_arrives_unchanged() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let odd = OsStr::from_bytes(b"odd\xff\nname");
    fs::create_dir(from.path().join(odd)).unwrap();
    fs::write(from.path().join(odd).join(odd), "x").unwrap();
    symlink(OsStr::from_bytes(b"\xfe"), from.path().join("link")).unwrap();
    let source = Root::open(from.path()).unwrap();
    source.xattr_set(odd, "user.note", b"\0\xff").unwrap();
    let index = sync_all(from.path(), to.path(), None).await.unwrap();
    assert_eq!(describe(from.path()), describe(to.path()));
    assert!(index.get(b"odd\xff\nname/odd\xff\nname").is_some());
    let copy = Root::open(to.path()).unwrap();
    assert_eq!(copy.xattr_get(odd, "user.note").unwrap().unwrap(), b"\0\xff");
    let again = sync_all(from.path(), to.path(), Some(&index)).await.unwrap();
    assert_eq!(again, index);
    source.xattr_remove(odd, "user.note").unwrap();
    sync_all(from.path(), to.path(), Some(&index)).await.unwrap();
    assert_eq!(copy.xattr_get(odd, "user.note").unwrap(), None);
    let exclude = FileSyncRequest { exclude: vec!["odd*".into()], ..FileSyncRequest::default() };
    let index = sync(from.path(), to.path(), None, exclude, &ReceiveOptions::default()).await.unwrap();
    assert_eq!(index.len(), 1);
}

#[tokio::test]
async fn roots_with_names_appear_below_directories() {
    let (one, two, to) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("f"), "1").unwrap();
    fs::write(two.path().join("f"), "2").unwrap();
    let root = |name: &str, dir: &Path| ExportRoot {
        directory: Some(name.into()),
        root: Root::open(dir).unwrap(),
        extra: Vec::new(),
    };
    let roots = vec![root("linux_arm64", two.path()), root("linux_amd64", one.path())];
    let options = SendOptions { set_mtime_ns: Some(5_000_000_000), ..SendOptions::default() };
    let call = SenderCall { roots, filter: FileSyncRequest::default(), options, form: Form::Single };
    carry(call, to.path(), None, None, &ReceiveOptions::default()).await.unwrap();
    assert_eq!(fs::read_to_string(to.path().join("linux_amd64/f")).unwrap(), "1");
    assert_eq!(fs::read_to_string(to.path().join("linux_arm64/f")).unwrap(), "2");
    let meta = fs::metadata(to.path().join("linux_arm64")).unwrap();
    assert_eq!((meta.mtime(), meta.mode() & 0o7777), (5, 0o755));
}

#[tokio::test]
async fn files_in_memory_are_sent_among_the_others() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("m")).unwrap();
    fs::write(from.path().join("m/m.json"), "below").unwrap();
    fs::write(from.path().join("a"), "a").unwrap();
    fs::write(from.path().join("z"), "z").unwrap();
    fs::create_dir(from.path().join("taken.json")).unwrap();
    fs::write(from.path().join("taken.json/lost"), "").unwrap();
    let extra = |name: &str| ExtraFile {
        name: name.into(),
        data: name.as_bytes().to_vec().into(),
        mode: 0o600,
        mtime_ns: 7_000_000_000,
    };
    let root = ExportRoot {
        directory: None,
        root: Root::open(from.path()).unwrap(),
        extra: vec![extra("m.json"), extra("taken.json")],
    };
    let filter = FileSyncRequest::default();
    let call = SenderCall { roots: vec![root], filter, options: SendOptions::default(), form: Form::Single };
    carry(call, to.path(), None, None, &ReceiveOptions::default()).await.unwrap();
    for (name, data) in
        [("m.json", "m.json"), ("m/m.json", "below"), ("taken.json", "taken.json"), ("z", "z")]
    {
        assert_eq!(fs::read_to_string(to.path().join(name)).unwrap(), data);
    }
    let meta = fs::metadata(to.path().join("m.json")).unwrap();
    assert_eq!((meta.mtime(), meta.mode() & 0o7777), (7, 0o600));
}
