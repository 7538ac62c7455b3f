use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use super::*;

struct Place {
    _dir: tempfile::TempDir,
    outside: PathBuf,
    root: Root,
    path: PathBuf,
}

/// A root with a canary beside it.
fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let path = dir.path().join("root");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "alive").unwrap();
    std::fs::create_dir(&path).unwrap();
    let root = Root::open(&path).unwrap();
    Place { _dir: dir, outside, root, path }
}

impl Place {
    fn canary_lives(&self) {
        let text = std::fs::read_to_string(self.outside.join("canary")).unwrap();
        assert_eq!(text, "alive");
        assert_eq!(std::fs::read_dir(&self.outside).unwrap().count(), 1);
    }
}

#[test]
fn links_that_point_outside_land_inside() {
    let p = place();
    symlink(&p.outside, p.path.join("abs")).unwrap();
    symlink("../outside", p.path.join("rel")).unwrap();
    symlink("/proc/self/root", p.path.join("magic")).unwrap();
    for link in ["abs", "rel"] {
        let victim = format!("{link}/canary");
        assert!(p.root.open_file(&victim).unwrap_err().is_not_found());
        assert!(p.root.create_file(&victim, 0o644, false).unwrap_err().is_not_found());
        assert!(p.root.unlink(&victim).unwrap_err().is_not_found());
        assert!(p.root.chown(&victim, 1, 1).unwrap_err().is_not_found());
        assert!(p.root.rename(&victim, &p.root, "got").unwrap_err().is_not_found());
        p.root.remove_all(&victim).unwrap();
        p.root.remove_all(link).unwrap();
    }
    assert!(p.root.open_dir("magic").is_err());
    assert!(p.root.open_file("../outside/canary").is_err());
    assert!(p.root.open_file("/../../outside/canary").is_err());
    p.canary_lives();
}

#[test]
fn a_real_magic_link_is_not_followed() {
    let proc = Root::open("/proc/self").unwrap();
    assert_eq!(proc.open_dir("root").unwrap_err().errno(), libc::ELOOP);
    assert_eq!(proc.open_dir("cwd").unwrap_err().errno(), libc::ELOOP);
}

#[test]
fn absolute_links_mean_the_root() {
    let p = place();
    p.root.mkdir_all("usr/lib", 0o755).unwrap();
    p.root.symlink("/usr/lib", "lib").unwrap();
    p.root.create_file("/lib/x", 0o640, true).unwrap().write_all(b"1").unwrap();
    assert_eq!(std::fs::read(p.path.join("usr/lib/x")).unwrap(), b"1");
    assert_eq!(p.root.resolve("lib/x").unwrap(), Path::new("usr/lib/x"));
    assert_eq!(p.root.resolve("lib/../..").unwrap(), Path::new(""));
    assert_eq!(p.root.stat("lib").unwrap().kind(), FileKind::Symlink);
    assert!(p.root.stat_follow("lib").unwrap().is_dir());
    assert_eq!(p.root.read_link("lib").unwrap(), Path::new("/usr/lib"));
}

#[test]
fn creating_never_writes_through_a_link() {
    let p = place();
    symlink(p.outside.join("canary"), p.path.join("l")).unwrap();
    p.root.create_file("t", 0o600, true).unwrap();
    p.root.symlink("t", "inner").unwrap();
    assert_eq!(p.root.create_file("l", 0o644, false).unwrap_err().errno(), libc::ELOOP);
    assert_eq!(p.root.create_file("inner", 0o644, false).unwrap_err().errno(), libc::ELOOP);
    assert!(p.root.create_file("l", 0o644, true).unwrap_err().is_exists());
    assert_eq!(p.root.chmod("inner", 0o777).unwrap_err().errno(), libc::EOPNOTSUPP);
    p.canary_lives();
}

#[test]
fn only_regular_files_are_opened() {
    let p = place();
    p.root.mknod("fifo", libc::S_IFIFO | 0o644, 0).unwrap();
    p.root.mkdir("dir", 0o755).unwrap();
    p.root.symlink("fifo", "link").unwrap();
    assert_eq!(p.root.open_file("fifo").unwrap_err().errno(), libc::EINVAL);
    assert_eq!(p.root.open_file("link").unwrap_err().errno(), libc::EINVAL);
    assert_eq!(p.root.open_file("dir").unwrap_err().errno(), libc::EISDIR);
    assert_eq!(p.root.open_file_nofollow("link").unwrap_err().errno(), libc::ELOOP);
    let mut file = p.root.create_file("f", 0o644, true).unwrap();
    file.write_all(b"0123456789").unwrap();
    assert_eq!(p.root.read_limited("f", 10).unwrap().len(), 10);
    assert_eq!(p.root.read_limited("f", 9).unwrap_err().errno(), libc::EFBIG);
    let mut text = String::new();
    p.root.open_file("./f").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
}

#[test]
fn paths_without_a_last_name_are_refused_for_making() {
    let p = place();
    p.root.mkdir("a", 0o755).unwrap();
    for bad in ["", "/", ".", "..", "a/..", "/a/./..", "././"] {
        assert_eq!(p.root.mkdir(bad, 0o755).unwrap_err().errno(), libc::EINVAL, "{bad}");
        assert!(p.root.remove_all(bad).is_err(), "{bad}");
        assert!(p.root.unlink(bad).is_err(), "{bad}");
    }
    for root in ["", "/", ".", "..", "a/.."] {
        assert_eq!(p.root.stat(root).unwrap().ino, p.root.stat("/").unwrap().ino, "{root}");
    }
    assert_eq!(p.root.parent("a/b/./").unwrap().1, "b");
}

#[test]
fn modes_are_taken_whatever_the_umask() {
    let p = place();
    p.root.mkdir("d", 0o1777).unwrap();
    p.root.create_file("f", 0o666, true).unwrap();
    p.root.mkdir_all("x/y", 0o777).unwrap();
    p.root.mkdir("s", 0o2775).unwrap();
    let mode = |name: &str| p.root.stat(name).unwrap().permissions();
    assert_eq!(mode("d"), 0o1777);
    assert_eq!(mode("f"), 0o666);
    assert_eq!(mode("x/y"), 0o777);
    assert_eq!(mode("s"), 0o2775);
}

#[test]
fn mkdir_all_says_what_it_made() {
    let p = place();
    p.root.mkdir_all("real/deep", 0o755).unwrap();
    p.root.symlink("/real", "link").unwrap();
    let made = p.root.mkdir_all("/link/deep/one/two", 0o755).unwrap();
    assert_eq!(made, [Path::new("real/deep/one"), Path::new("real/deep/one/two")]);
    assert_eq!(p.root.mkdir_all("link/deep/one", 0o755).unwrap(), Vec::<PathBuf>::new());
    let made = p.root.mkdir_all("link/deep/../../top", 0o755).unwrap();
    assert_eq!(made, [Path::new("top")]);
    p.root.create_file("file", 0o644, true).unwrap();
    assert!(p.root.mkdir_all("file/x", 0o755).unwrap_err().is_not_dir());
    symlink(p.outside.join("new"), p.path.join("dangling")).unwrap();
    assert!(p.root.mkdir_all("dangling/x", 0o755).unwrap_err().is_not_found());
    p.canary_lives();
}

#[test]
fn times_and_owners_stay_on_the_link() {
    let p = place();
    p.root.create_file("f", 0o644, true).unwrap();
    p.root.symlink("f", "l").unwrap();
    p.root.utimes("l", 1_500_000_000_000_000_007).unwrap();
    assert_eq!(p.root.stat("l").unwrap().mtime_ns, 1_500_000_000_000_000_007);
    assert_ne!(p.root.stat("f").unwrap().mtime_ns, 1_500_000_000_000_000_007);
    p.root.utimes("f", -5).unwrap();
    assert_eq!(p.root.stat("f").unwrap().mtime_ns, -5);
}

#[test]
fn root_owner_and_attributes_of_a_link_are_its_own() {
    let p = place();
    p.root.create_file("f", 0o644, true).unwrap();
    p.root.symlink("f", "l").unwrap();
    p.root.chown("l", 7, 8).unwrap();
    assert_eq!((p.root.stat("l").unwrap().uid, p.root.stat("f").unwrap().uid), (7, 0));
    p.root.xattr_set("l", "trusted.t", b"link").unwrap();
    assert_eq!(p.root.xattr_get("l", "trusted.t").unwrap().unwrap(), b"link");
    assert_eq!(p.root.xattr_get("f", "trusted.t").unwrap(), None);
    p.root.xattr_set("f", "user.big", &vec![7; 2000]).unwrap();
    assert_eq!(p.root.xattr_get("/f", "user.big").unwrap().unwrap().len(), 2000);
    assert_eq!(p.root.xattr_list("f").unwrap(), ["user.big"]);
    p.root.xattr_set(".", "trusted.d", b"").unwrap();
    assert_eq!(p.root.xattr_list("/").unwrap(), ["trusted.d"]);
    p.root.xattr_remove("f", "user.big").unwrap();
    assert_eq!(p.root.xattr_remove("f", "user.big").unwrap_err().errno(), libc::ENODATA);
}

#[test]
fn names_can_be_linked_renamed_and_swapped() {
    let p = place();
    p.root.mkdir("d", 0o755).unwrap();
    p.root.create_file("a", 0o644, true).unwrap().write_all(b"a").unwrap();
    p.root.hard_link("a", "d/b").unwrap();
    assert_eq!(p.root.stat("a").unwrap().nlink, 2);
    p.root.create_file("c", 0o644, true).unwrap();
    assert!(p.root.rename_noreplace("c", &p.root, "a").unwrap_err().is_exists());
    p.root.rename_exchange("c", &p.root, "a").unwrap();
    assert_eq!(p.root.stat("a").unwrap().size, 0);
    let d = p.root.open_dir("d").unwrap();
    p.root.rename("c", &d, "e").unwrap();
    let mut names: Vec<_> = d.read_dir().unwrap().into_iter().map(|e| e.name).collect();
    names.sort();
    assert_eq!(names, ["b", "e"]);
    assert!(!p.root.exists("c").unwrap() && !p.root.exists("a/x").unwrap());
}

#[test]
fn a_tree_of_ten_thousand_levels_is_removed() {
    let p = place();
    let mut here = p.root.try_clone().unwrap();
    for level in 0..10_000 {
        here.mkdir("d", 0o755).unwrap();
        if level % 500 == 0 {
            here.create_file("f", 0o644, true).unwrap();
            here.mkdir("side", 0o755).unwrap();
            here.symlink(&p.outside, "out").unwrap();
        }
        here = here.open_dir("d").unwrap();
    }
    drop(here);
    p.root.remove_all("d").unwrap();
    assert!(!p.root.exists("d").unwrap());
    p.root.clear().unwrap();
    assert!(p.root.read_dir().unwrap().is_empty());
    p.canary_lives();
}

#[test]
fn removing_what_is_not_there_is_fine() {
    let p = place();
    p.root.remove_all("nothing").unwrap();
    p.root.remove_all("no/such/parent").unwrap();
    p.root.create_file("f", 0o644, true).unwrap();
    p.root.remove_all("f/x").unwrap();
    assert!(p.root.exists("f").unwrap());
}

#[test]
fn root_removal_does_not_enter_a_mount() {
    let p = place();
    p.root.mkdir_all("t/m", 0o755).unwrap();
    let status = std::process::Command::new("mount")
        .args(["--bind".as_ref(), p.outside.as_os_str(), p.path.join("t/m").as_os_str()])
        .status()
        .unwrap();
    assert!(status.success());
    let removed = p.root.remove_all("t");
    std::process::Command::new("umount").arg(p.path.join("t/m")).status().unwrap();
    assert_eq!(removed.unwrap_err().errno(), libc::EXDEV);
    p.canary_lives();
}

#[test]
fn a_swapped_directory_never_leads_outside() {
    let p = place();
    p.root.mkdir("flip", 0o755).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            p.root.symlink(&p.outside, "evil").unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                p.root.rename_exchange("flip", &p.root, "evil").unwrap();
            }
        });
        for _ in 0..20_000 {
            if let Ok(mut file) = p.root.open_file("flip/canary") {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                panic!("read outside: {text}");
            }
            p.root.create_file("flip/x", 0o644, false).ok();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    p.canary_lives();
}

proptest::proptest! {
    #[test]
    fn splitting_agrees_with_std(path in "[a./]{0,12}") {
        let p = Path::new(&path);
        match split(p) {
            Ok((parent, name)) => {
                proptest::prop_assert_eq!(p.file_name(), Some(name));
                let parent = parent.unwrap_or(Path::new(""));
                let want = p.parent().unwrap();
                let plain = |p: &Path| p.components().filter(|c| *c != std::path::Component::RootDir
                    && *c != std::path::Component::CurDir).collect::<PathBuf>();
                proptest::prop_assert_eq!(plain(parent), plain(want));
            }
            Err(_) => proptest::prop_assert_eq!(p.file_name(), None),
        }
    }
}
