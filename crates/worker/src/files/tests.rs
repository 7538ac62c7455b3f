use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rbuild_llb::{Chmod, CopyAction, FileActionKind, MkdirAction, MkfileAction, RmAction};
use rbuild_sys::Root;
use tempfile::TempDir;

use tokio_util::sync::CancellationToken;

use super::*;
use rbuild_llb::SymlinkAction;

/// Unpacked bytes of archives here.
const MAX_UNPACKED: u64 = 4 << 20;

struct Trees {
    dir: TempDir,
}

impl Trees {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["src", "dst", "outside"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("outside/canary"), "alive").unwrap();
        Self { dir }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, data: &str) {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|error| format!("<{error}>"))
    }

    fn run(&self, kind: &FileActionKind, owner: Option<Owner>) -> Result<(), FileError> {
        let (src, dst) = (Root::open(self.at("src")).unwrap(), Root::open(self.at("dst")).unwrap());
        let result = apply(kind, &dst, &src, owner);
        assert_eq!(self.read("outside/canary"), "alive");
        assert_eq!(
            std::fs::read_dir(self.at("outside")).unwrap().count(),
            1,
            "something was written outside"
        );
        result
    }

    fn copy(&self, src: &str, dest: &str) -> Result<(), FileError> {
        self.run(&FileActionKind::Copy(Box::new(action(src, dest))), None)
    }
}

fn apply(kind: &FileActionKind, dst: &Root, src: &Root, owner: Option<Owner>) -> Result<(), FileError> {
    match kind {
        FileActionKind::Copy(action) => {
            let mode = match &action.mode {
                Chmod::Keep => ModeChange::Keep,
                Chmod::Bits(bits) => ModeChange::Bits(*bits),
                Chmod::Symbolic(text) => ModeChange::parse(text)?,
            };
            let request = CopyRequest {
                src: &action.src,
                dest: &action.dest,
                contents: action.dir_copy_contents,
                follow: action.follow_symlink,
                wildcard: action.allow_wildcard,
                allow_empty: action.allow_empty_wildcard,
                unpack: action.attempt_unpack,
                max_unpacked: MAX_UNPACKED,
                create_dest: action.create_dest_path,
                include: &action.include_patterns,
                exclude: &action.exclude_patterns,
                required: &action.required_paths,
                replace: action.always_replace_existing,
                changes: Changes { owner, mode, mtime_ns: action.timestamp_ns },
                share: None,
                cancel: &CancellationToken::new(),
            };
            copy(src, dst, &request)
        }
        FileActionKind::Mkdir(make) => {
            let (path, mode, parents) = (&*make.path, make.mode, make.make_parents);
            let owner = owner.unwrap_or_default();
            make_dir(dst, &MakeDir { path, mode, parents, owner, mtime_ns: make.timestamp_ns })
        }
        FileActionKind::Mkfile(make) => {
            let (path, mode, data) = (&*make.path, make.mode, &*make.data);
            let owner = owner.unwrap_or_default();
            make_file(dst, &MakeFile { path, mode, data, owner, mtime_ns: make.timestamp_ns })
        }
        FileActionKind::Symlink(link) => {
            let (target, path) = (&*link.old_path, &*link.new_path);
            let owner = owner.unwrap_or_default();
            make_link(dst, &MakeLink { target, path, owner, mtime_ns: link.timestamp_ns })
        }
        FileActionKind::Rm(rm) => remove(dst, &rm.path, rm.allow_wildcard, rm.allow_not_found),
    }
}

/// A copy with the attributes that COPY sets.
fn action(src: &str, dest: &str) -> CopyAction {
    CopyAction {
        src: src.into(),
        dest: dest.into(),
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..CopyAction::default()
    }
}

#[test]
fn files_and_directories_land_where_docker_puts_them() {
    let trees = Trees::new();
    trees.write("src/f", "f");
    trees.write("src/d/a", "a");
    trees.write("src/d/e/b", "b");
    for (src, dest) in
        [("/f", "/plain"), ("/f", "/dir/"), ("/d", "/contents"), ("/d/*", "/globbed/"), ("/f", "/contents")]
    {
        trees.copy(src, dest).unwrap();
    }
    assert_eq!(trees.read("dst/plain"), "f");
    assert_eq!(trees.read("dst/dir/f"), "f");
    assert_eq!(trees.read("dst/contents/a"), "a");
    assert_eq!(trees.read("dst/contents/e/b"), "b");
    assert_eq!(trees.read("dst/contents/f"), "f");
    assert_eq!(trees.read("dst/globbed/a"), "a");
    assert_eq!(trees.read("dst/globbed/b"), "b");
    let not_contents = CopyAction { dir_copy_contents: false, ..action("/d", "/contents") };
    trees.run(&FileActionKind::Copy(Box::new(not_contents)), None).unwrap();
    assert_eq!(trees.read("dst/contents/d/a"), "a");
}

#[test]
fn attributes_times_and_links_are_kept() {
    let trees = Trees::new();
    trees.write("src/d/f", "f");
    std::fs::set_permissions(trees.at("src/d/f"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(trees.at("src/d"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::hard_link(trees.at("src/d/f"), trees.at("src/d/g")).unwrap();
    symlink("/nowhere", trees.at("src/d/l")).unwrap();
    std::fs::create_dir(trees.at("src/d/e")).unwrap();
    std::fs::set_permissions(trees.at("src/d/e"), std::fs::Permissions::from_mode(0o711)).unwrap();
    let root = Root::open(trees.at("src")).unwrap();
    root.utimes("d/f", 1_000_000_000_123_456_789).unwrap();
    root.utimes("d/e", 800_000_000_000_000_000).unwrap();
    root.utimes("d", 900_000_000_000_000_000).unwrap();
    trees.copy("/d", "/x").unwrap();
    let file = std::fs::metadata(trees.at("dst/x/f")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.mtime(), file.mtime_nsec()), (0o4751, 1_000_000_000, 123_456_789));
    assert_eq!(file.ino(), std::fs::metadata(trees.at("dst/x/g")).unwrap().ino());
    let dir = std::fs::metadata(trees.at("dst/x")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.mtime()), (0o755, 900_000_000), "made as a place for contents");
    let inner = std::fs::metadata(trees.at("dst/x/e")).unwrap();
    assert_eq!((inner.mode() & 0o7777, inner.mtime()), (0o711, 800_000_000));
    let existing = CopyAction { mode: Chmod::Bits(0o600), ..action("/d", "/x") };
    root.utimes("d", 700_000_000_000_000_000).unwrap();
    trees.run(&FileActionKind::Copy(Box::new(existing)), Some(Owner { uid: 3, gid: 3 })).unwrap();
    let dir = std::fs::metadata(trees.at("dst/x")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.mtime()), (0o755, 0, 700_000_000), "was there");
    assert_eq!(std::fs::read_link(trees.at("dst/x/l")).unwrap(), Path::new("/nowhere"));
}

#[test]
fn owner_mode_and_time_can_be_given() {
    let trees = Trees::new();
    trees.write("src/f", "f");
    let copy =
        CopyAction { mode: Chmod::Bits(0o640), timestamp_ns: Some(5_000_000_000), ..action("/f", "/n/f") };
    trees.run(&FileActionKind::Copy(Box::new(copy)), Some(Owner { uid: 12, gid: 34 })).unwrap();
    for path in ["dst/n/f", "dst/n"] {
        let file = std::fs::metadata(trees.at(path)).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (12, 34, 0o640), "{path}");
    }
    let file = std::fs::metadata(trees.at("dst/n/f")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.mtime()), (0o640, 5));
}

#[test]
fn links_in_source_and_destination_stay_inside() {
    let trees = Trees::new();
    trees.write("src/etc/passwd", "inside");
    trees.write("src/f", "f");
    symlink(trees.at("outside/canary"), trees.at("src/absolute")).unwrap();
    symlink("../outside/canary", trees.at("src/relative")).unwrap();
    symlink("/etc", trees.at("src/dir")).unwrap();
    symlink("loop", trees.at("src/loop")).unwrap();
    for bad in ["/absolute", "/relative", "/loop", "/../outside/canary"] {
        assert!(trees.copy(bad, "/out").is_err(), "{bad}");
        assert!(!trees.at("dst/out").exists());
    }
    trees.copy("/dir/passwd", "/p").unwrap();
    assert_eq!(trees.read("dst/p"), "inside");
    symlink(trees.at("outside"), trees.at("dst/escape")).unwrap();
    symlink("../../../../..", trees.at("dst/up")).unwrap();
    // Inside the root the first leads to a place that is made, and the second to the root itself.
    trees.copy("/f", "/escape/landed").unwrap();
    assert_eq!(trees.read(&format!("dst{}/landed", trees.at("outside").display())), "f");
    trees.copy("/f", "/up/landed").unwrap();
    assert_eq!(trees.read("dst/landed"), "f");
    let rm = |path: &str| FileActionKind::Rm(RmAction { path: path.into(), ..Default::default() });
    assert!(trees.run(&rm("/escape/canary"), None).is_err());
    trees.run(&rm("/escape"), None).unwrap();
    assert!(trees.at("dst/escape").symlink_metadata().is_err());
    let mkfile =
        MkfileAction { path: "/up/../../m".into(), mode: 0o644, data: "m".into(), ..Default::default() };
    trees.run(&FileActionKind::Mkfile(mkfile), None).unwrap();
    assert_eq!(trees.read("dst/m"), "m");
}

#[test]
fn patterns_choose_and_make_only_the_directories_they_need() {
    let trees = Trees::new();
    for path in ["src/d/a.txt", "src/d/b.md", "src/d/e/c.txt", "src/d/g/h.md"] {
        trees.write(path, "x");
    }
    let include = CopyAction { include_patterns: vec!["**/*.txt".into()], ..action("/d", "/inc") };
    trees.run(&FileActionKind::Copy(Box::new(include)), None).unwrap();
    assert!(trees.at("dst/inc/a.txt").exists() && trees.at("dst/inc/e/c.txt").exists());
    assert!(!trees.at("dst/inc/b.md").exists() && !trees.at("dst/inc/g").exists());
    let exclude = CopyAction { exclude_patterns: vec!["e".into(), "*.md".into()], ..action("/d", "/exc") };
    trees.run(&FileActionKind::Copy(Box::new(exclude)), None).unwrap();
    assert!(trees.at("dst/exc/a.txt").exists() && trees.at("dst/exc/g/h.md").exists());
    assert!(!trees.at("dst/exc/e").exists() && !trees.at("dst/exc/b.md").exists());
}

#[test]
fn a_type_is_replaced_only_when_asked() {
    let trees = Trees::new();
    trees.write("src/d/x/y", "y");
    trees.write("dst/t/x", "file");
    assert!(matches!(trees.copy("/d", "/t"), Err(FileError::NotDirectory { .. })));
    let replace = CopyAction { always_replace_existing: true, ..action("/d", "/t") };
    trees.run(&FileActionKind::Copy(Box::new(replace)), None).unwrap();
    assert_eq!(trees.read("dst/t/x/y"), "y");
}

#[test]
fn archives_are_unpacked_and_other_files_copied() {
    let trees = Trees::new();
    trees.write("tree/inner/f", "packed");
    for (name, flag) in [("a.tar", "cf"), ("a.tgz", "czf"), ("a.tar.xz", "cJf"), ("a.tar.bz2", "cjf")] {
        let made = std::process::Command::new("tar")
            .arg(flag)
            .arg(trees.at("src").join(name))
            .args(["-C".as_ref(), trees.at("tree").as_os_str(), "inner".as_ref()])
            .status()
            .unwrap();
        assert!(made.success());
        let add = CopyAction { attempt_unpack: true, ..action(name, &format!("/{name}/")) };
        trees.run(&FileActionKind::Copy(Box::new(add)), None).unwrap();
        assert_eq!(trees.read(&format!("dst/{name}/inner/f")), "packed", "{name}");
    }
    trees.write("src/plain", "no archive");
    let add = CopyAction { attempt_unpack: true, ..action("plain", "/plain") };
    trees.run(&FileActionKind::Copy(Box::new(add)), None).unwrap();
    assert_eq!(trees.read("dst/plain"), "no archive");
}

#[test]
fn directories_are_made_with_parents_or_without() {
    let trees = Trees::new();
    let mkdir = |path: &str, make_parents| {
        FileActionKind::Mkdir(MkdirAction {
            path: path.into(),
            mode: 0o750,
            make_parents,
            ..Default::default()
        })
    };
    trees.run(&mkdir("/a/b/c", true), Some(Owner { uid: 5, gid: 6 })).unwrap();
    assert_eq!(std::fs::metadata(trees.at("dst/a/b")).unwrap().uid(), 5);
    trees.run(&mkdir("/a/b", false), None).unwrap();
    assert!(trees.run(&mkdir("/x/y", false), None).is_err());
}

#[test]
fn removing_says_what_is_missing_unless_told_not_to() {
    let trees = Trees::new();
    trees.write("dst/d/f", "");
    trees.write("dst/d/g", "");
    let rm = |path: &str, allow_not_found, allow_wildcard| {
        FileActionKind::Rm(RmAction { path: path.into(), allow_not_found, allow_wildcard })
    };
    assert!(trees.run(&rm("/nothing", false, false), None).is_err());
    trees.run(&rm("/nothing", true, false), None).unwrap();
    trees.run(&rm("/d/*", false, true), None).unwrap();
    assert!(trees.at("dst/d").exists() && !trees.at("dst/d/f").exists());
    for root in ["..", "/", "", "a/../..", "/./"] {
        let refused = trees.run(&rm(root, true, false), None);
        assert!(matches!(refused, Err(FileError::RootPath { .. })), "{root}");
    }
    assert!(trees.at("dst/d").exists());
}

#[test]
fn what_no_path_can_be_is_refused() {
    let trees = Trees::new();
    trees.write("src/f", "f");
    let long = "x".repeat(256);
    for bad in ["a\0b", &long, &"d/".repeat(2049)] {
        assert!(trees.copy("/f", bad).is_err());
        assert!(trees.copy(bad, "/f").is_err());
    }
    assert!(trees.copy("/[", "/x").is_err(), "a pattern that cannot be read");
    assert!(trees.copy("/missing", "/x").is_err());
    trees.copy("/none*", "/x").unwrap();
    let strict = CopyAction { allow_empty_wildcard: false, ..action("/none*", "/x") };
    assert!(trees.run(&FileActionKind::Copy(Box::new(strict)), None).is_err());
}

#[test]
fn special_files_are_copied_as_such_and_never_opened() {
    let trees = Trees::new();
    let src = Root::open(trees.at("src")).unwrap();
    src.mkdir("d", 0o755).unwrap();
    src.mknod("d/fifo", 0o010_640, 0).unwrap();
    src.mknod("d/null", 0o020_666, rbuild_sys::makedev(1, 3)).unwrap();
    src.mknod("d/whiteout", 0o020_000, 0).unwrap();
    trees.copy("/d", "/d").unwrap();
    let dst = Root::open(trees.at("dst")).unwrap();
    assert_eq!(dst.stat("d/fifo").unwrap().mode, 0o010_640);
    assert_eq!(dst.stat("d/null").unwrap().device_numbers(), (1, 3));
    assert!(!dst.exists("d/whiteout").unwrap());
    assert!(trees.copy("/d/fifo", "/d/").is_ok());
    assert!(trees.copy("/d", "/d/fifo").is_err(), "a directory does not replace a pipe");
}

#[test]
fn xattrs_are_kept_but_not_those_of_overlays() {
    let trees = Trees::new();
    trees.write("src/d/f", "f");
    let src = Root::open(trees.at("src")).unwrap();
    if src.xattr_set("d/f", "user.note", b"kept").is_err() {
        return;
    }
    src.xattr_set("d", "trusted.overlay.opaque", b"y").unwrap();
    src.xattr_set("d", "user.note", b"dir").unwrap();
    let whole = CopyAction { dir_copy_contents: false, ..action("/d", "/x") };
    trees.run(&FileActionKind::Copy(Box::new(whole)), None).unwrap();
    let dst = Root::open(trees.at("dst")).unwrap();
    assert_eq!(dst.xattr_get("x/f", "user.note").unwrap().as_deref(), Some(&b"kept"[..]));
    assert_eq!(dst.xattr_get("x", "user.note").unwrap().as_deref(), Some(&b"dir"[..]));
    assert_eq!(dst.xattr_get("x", "trusted.overlay.opaque").unwrap(), None);
}

#[test]
fn links_are_made_and_followed_where_upstream_does() {
    let trees = Trees::new();
    trees.write("src/real", "r");
    symlink("real", trees.at("src/link")).unwrap();
    trees.copy("/link", "/followed").unwrap();
    assert_eq!(trees.read("dst/followed"), "r");
    let kept = CopyAction { follow_symlink: false, ..action("/link", "/kept") };
    trees.run(&FileActionKind::Copy(Box::new(kept)), None).unwrap();
    assert_eq!(std::fs::read_link(trees.at("dst/kept")).unwrap(), Path::new("real"));
    let make = SymlinkAction { old_path: "../x".into(), new_path: "/made".into(), ..Default::default() };
    trees.run(&FileActionKind::Symlink(make), None).unwrap();
    assert_eq!(std::fs::read_link(trees.at("dst/made")).unwrap(), Path::new("../x"));
}

#[test]
fn required_paths_have_to_be_there() {
    let trees = Trees::new();
    trees.write("src/a/f", "f");
    let required = |path: &str, patterns: &[&str], action: CopyAction| CopyAction {
        required_paths: vec![path.into()],
        include_patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..action
    };
    let copy = |path: &str| required(path, &["a"], action("/", "/x/"));
    trees.run(&FileActionKind::Copy(Box::new(copy("a/f"))), None).unwrap();
    assert!(trees.run(&FileActionKind::Copy(Box::new(copy("a/g"))), None).is_err());
    // `COPY --parents /a/./f`: both paths are from the root.
    let below = |path: &str| required(path, &["f"], action("/a", "/y/"));
    trees.run(&FileActionKind::Copy(Box::new(below("/a/f"))), None).unwrap();
    assert!(trees.run(&FileActionKind::Copy(Box::new(below("/f"))), None).is_err());
    // Without patterns they are not looked at, as upstream has it.
    trees.run(&FileActionKind::Copy(Box::new(required("a/g", &[], action("/", "/z/")))), None).unwrap();
}

#[test]
fn a_tree_deeper_than_a_path_can_say_is_copied() {
    let trees = Trees::new();
    let mut here = Root::open(trees.at("src")).unwrap();
    for _ in 0..200 {
        let name = "n".repeat(100);
        here.mkdir(&name, 0o755).unwrap();
        here = here.open_dir(&name).unwrap();
    }
    here.create_file("f", 0o644, true).unwrap();
    trees.copy("/", "/").unwrap();
    let mut there = Root::open(trees.at("dst")).unwrap();
    for _ in 0..200 {
        there = there.open_dir("n".repeat(100)).unwrap();
    }
    assert!(there.exists("f").unwrap());
}

#[test]
fn archives_cannot_leave_their_directory() {
    let trees = Trees::new();
    let outside = trees.at("outside");
    let mut tar = rbuild_oci::layer::LayerWriter::new(std::fs::File::create(trees.at("src/a.tar")).unwrap());
    let mut link = rbuild_oci::layer::LayerEntry::new("link", rbuild_oci::layer::EntryKind::Symlink);
    link.link = outside.clone();
    tar.append(&link, std::io::empty()).unwrap();
    let mut file = rbuild_oci::layer::LayerEntry::new("link/canary", rbuild_oci::layer::EntryKind::File);
    file.size = 4;
    tar.append(&file, &b"dead"[..]).unwrap();
    tar.finish().unwrap();
    let add = CopyAction { attempt_unpack: true, ..action("/a.tar", "/x/") };
    // What it says is checked by `run`; whether it is refused or lands inside is the archive's luck.
    let landed = trees.run(&FileActionKind::Copy(Box::new(add)), None).is_ok();
    assert_eq!(landed, trees.at("dst/x").join(outside.strip_prefix("/").unwrap()).join("canary").exists());
}

#[test]
fn archives_of_nothing_are_refused_before_they_fill_the_disk() {
    use rbuild_oci::layer::{EntryKind, LayerEntry, LayerWriter};
    let trees = Trees::new();
    let packed = |name: &str, sizes: &[u64]| {
        let file = std::fs::File::create(trees.at("src").join(name)).unwrap();
        let options = rbuild_oci::CompressionOptions::new(rbuild_oci::Compression::Zstd);
        let mut tar = LayerWriter::new(rbuild_oci::compressor(Box::new(file), &options, 1).unwrap());
        for (index, size) in sizes.iter().enumerate() {
            let mut entry = LayerEntry::new(format!("f{index}"), EntryKind::File);
            entry.size = *size;
            tar.append(&entry, std::io::Read::take(std::io::repeat(0), *size)).unwrap();
        }
        tar.finish().unwrap().finish().unwrap();
    };
    let add = |name: &str| {
        let add = CopyAction { attempt_unpack: true, ..action(name, "/x/") };
        trees.run(&FileActionKind::Copy(Box::new(add)), None)
    };
    packed("fits", &[MAX_UNPACKED / 2, MAX_UNPACKED / 2]);
    add("fits").unwrap();
    packed("bomb", &[1, MAX_UNPACKED * 100]);
    assert!(std::fs::metadata(trees.at("src/bomb")).unwrap().len() < MAX_UNPACKED / 200);
    let error = add("bomb").unwrap_err().to_string();
    assert!(error.contains("max-unpacked-size"), "{error}");
    assert!(
        std::fs::metadata(trees.at("dst/x/f1")).unwrap().len() <= MAX_UNPACKED / 2,
        "nothing was written"
    );
}

#[test]
fn shared_inodes_are_those_that_need_no_change() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (src, dst) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["a", "b", "c"] {
        std::fs::write(src.path().join(name), name).unwrap();
    }
    std::fs::hard_link(src.path().join("a"), src.path().join("a2")).unwrap();
    std::fs::set_permissions(src.path().join("c"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(dst.path().join("b"), "in the way").unwrap();
    let (from, to) = (Root::open(src.path()).unwrap(), Root::open(dst.path()).unwrap());
    let seen = std::cell::RefCell::new(std::collections::HashSet::new());
    let copy_to = |dest: &str| {
        let request = CopyRequest {
            src: "/",
            dest,
            contents: true,
            follow: true,
            wildcard: false,
            allow_empty: false,
            unpack: false,
            max_unpacked: 0,
            create_dest: true,
            include: &[],
            exclude: &[],
            required: &[],
            replace: false,
            changes: Changes { owner: None, mode: ModeChange::Bits(0o644), mtime_ns: None },
            share: Some(super::Share { upper: &to, seen: &seen }),
            cancel: &CancellationToken::new(),
        };
        copy(&from, &to, &request).unwrap();
    };
    copy_to("/");
    let inode = |dir: &tempfile::TempDir, name: &str| std::fs::metadata(dir.path().join(name)).unwrap().ino();
    assert_eq!(inode(&src, "a"), inode(&dst, "a"));
    assert_eq!(inode(&dst, "a"), inode(&dst, "a2"), "the hard link is lost");
    assert_ne!(inode(&src, "b"), inode(&dst, "b"), "something was in its way");
    assert_ne!(inode(&src, "c"), inode(&dst, "c"), "its mode had to change");
    assert_eq!(std::fs::read_to_string(dst.path().join("b")).unwrap(), "b");
    let over =
        MakeFile { path: "/a2", mode: 0o600, data: b"over", owner: Owner::default(), mtime_ns: Some(0) };
    make_file(&to, &over).unwrap();
    let text = |dir: &tempfile::TempDir| std::fs::read_to_string(dir.path().join("a2")).unwrap();
    assert_eq!((text(&src), text(&dst)), ("a".to_owned(), "over".to_owned()), "the client's file changed");
    assert_eq!(std::fs::metadata(dst.path().join("a2")).unwrap().permissions().mode() & 0o777, 0o644);
    copy_to("/again");
    assert_ne!(inode(&dst, "a"), inode(&dst, "again/a"), "two copies would show as hard links");
}

#[test]
fn a_file_copied_by_its_name_shares_its_inode_too() {
    use std::os::unix::fs::MetadataExt;
    let (src, dst) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(src.path().join("a"), "client's").unwrap();
    std::fs::create_dir(dst.path().join("taken")).unwrap();
    std::fs::write(dst.path().join("taken/a"), "in the way").unwrap();
    let (from, to) = (Root::open(src.path()).unwrap(), Root::open(dst.path()).unwrap());
    let copy_to = |dest: &str, mode: ModeChange| {
        let seen = std::cell::RefCell::new(std::collections::HashSet::new());
        let request = CopyRequest {
            src: "/a",
            dest,
            contents: false,
            follow: true,
            wildcard: false,
            allow_empty: false,
            unpack: false,
            max_unpacked: 0,
            create_dest: true,
            include: &[],
            exclude: &[],
            required: &[],
            replace: false,
            changes: Changes { owner: None, mode, mtime_ns: None },
            share: Some(super::Share { upper: &to, seen: &seen }),
            cancel: &CancellationToken::new(),
        };
        copy(&from, &to, &request).unwrap();
    };
    let stat = |path: &str| std::fs::metadata(dst.path().join(path)).unwrap();
    let inode = std::fs::metadata(src.path().join("a")).unwrap().ino();
    copy_to("/", ModeChange::Keep);
    copy_to("/new/dir/b", ModeChange::Keep);
    copy_to("/taken/", ModeChange::Keep);
    copy_to("/changed", ModeChange::Bits(0o600));
    assert_eq!((stat("a").ino(), stat("new/dir/b").ino()), (inode, inode));
    assert_ne!(stat("taken/a").ino(), inode, "something was in its way");
    assert_ne!(stat("changed").ino(), inode, "its mode had to change");
    assert_eq!(stat("changed").mode() & 0o777, 0o600);
    for path in ["a", "new/dir/b", "taken/a", "changed"] {
        assert_eq!(std::fs::read_to_string(dst.path().join(path)).unwrap(), "client's", "{path}");
    }
}
