use std::fs;
use std::io::Write;

use super::*;

struct Layers {
    dir: tempfile::TempDir,
}

impl Layers {
    fn new(names: &[&str]) -> Layers {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join(format!("in-{}", name.rsplit('/').next().unwrap())), name)
                .unwrap();
            fs::write(dir.path().join(name).join("same"), name).unwrap();
        }
        fs::create_dir_all(dir.path().join("work")).unwrap();
        Layers { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn overlay(&self, lower: &[&str], upper: Option<&str>) -> Mount {
        Mount::Overlay {
            lower: lower.iter().map(|name| self.path(name)).collect(),
            upper: upper.map(|name| self.path(name)),
            work: upper.map(|_| self.path("work")),
            volatile: upper.is_some(),
        }
    }
}

fn read(root: &Root, path: &str) -> String {
    String::from_utf8(root.read_limited(path, 1 << 20).unwrap()).unwrap()
}

#[test]
fn root_the_top_layer_comes_first() {
    let layers = Layers::new(&["top", "base"]);
    let tree = MountTree::new(&layers.overlay(&["top", "base"], None)).unwrap();
    let root = tree.root().unwrap();
    assert_eq!(read(&root, "same"), "top");
    assert_eq!(read(&root, "in-base"), "base");
    assert_eq!(root.create_file("x", 0o644, true).unwrap_err().errno(), libc::EROFS);
}

#[test]
fn root_changes_land_in_the_upper_directory() {
    let layers = Layers::new(&["base", "upper"]);
    let mount = layers.overlay(&["base"], Some("upper"));
    for round in 0..3 {
        // Again and again with one work directory: the mark of the volatile mount before is no obstacle.
        let root = MountTree::new(&mount).unwrap().root().unwrap();
        root.create_file(format!("new{round}"), 0o644, true).unwrap().write_all(b"n").unwrap();
    }
    assert_eq!(fs::read(layers.path("upper").join("new2")).unwrap(), b"n");
    let root = MountTree::new(&mount).unwrap().root().unwrap();
    root.unlink("in-base").unwrap();
    let upper = Root::open(layers.path("upper")).unwrap();
    assert!(upper.stat("in-base").unwrap().is_overlay_whiteout());
    assert!(layers.path("base").join("in-base").exists());
}

#[test]
fn root_four_hundred_layers_mount() {
    let names: Vec<String> = (0..400).map(|i| format!("l{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let layers = Layers::new(&names);
    let root = MountTree::new(&layers.overlay(&names, None)).unwrap().root().unwrap();
    assert_eq!(read(&root, "in-l399"), "l399");
    assert_eq!(read(&root, "same"), "l0");
}

#[test]
fn root_odd_and_long_paths_mount() {
    let long = format!("{}/{}:,\\x", "n".repeat(200), "m".repeat(200));
    let layers = Layers::new(&[&long, "b:a"]);
    let root = MountTree::new(&layers.overlay(&[&long, "b:a"], None)).unwrap().root().unwrap();
    assert_eq!(read(&root, "in-b:a"), "b:a");
}

#[test]
fn root_a_single_layer_is_a_read_only_bind() {
    let layers = Layers::new(&["only"]);
    let root = MountTree::new(&layers.overlay(&["only"], None)).unwrap().root().unwrap();
    assert_eq!(read(&root, "same"), "only");
    assert_eq!(root.create_file("x", 0o644, true).unwrap_err().errno(), libc::EROFS);
}

#[test]
fn root_the_mount_is_gone_when_dropped() {
    let layers = Layers::new(&["base", "upper"]);
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tree = MountTree::new(&layers.overlay(&["base"], Some("upper"))).unwrap();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("upperdir"));
    drop(tree);
    assert!(before.len().abs_diff(fs::read_to_string("/proc/self/mountinfo").unwrap().len()) < 4096);
}

#[test]
fn root_a_missing_layer_is_named() {
    let layers = Layers::new(&["base"]);
    let err = MountTree::new(&layers.overlay(&["gone", "base"], None)).unwrap_err();
    assert!(err.is_not_found(), "{err}");
    assert!(err.to_string().contains("gone"), "{err}");
}

#[test]
fn root_the_kernels_words_are_in_the_error() {
    let layers = Layers::new(&["base", "upper"]);
    let mut fs = FsMount::open("overlay").unwrap();
    let err = fs.string("no_such_option", "1").unwrap_err();
    assert!(err.detail.contains("no_such_option"), "{err}");
    let mount = Mount::Overlay {
        lower: vec![layers.path("base")],
        upper: Some(layers.path("upper")),
        work: None,
        volatile: false,
    };
    assert_eq!(MountTree::new(&mount).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn root_tmpfs_has_its_size_and_mode() {
    let tree = MountTree::new(&Mount::Tmpfs { size: Some(64 * 1024), mode: 0o1777 }).unwrap();
    let root = tree.root().unwrap();
    assert_eq!(root.stat("/").unwrap().permissions(), 0o1777);
    let mut file = root.create_file("big", 0o600, true).unwrap();
    let err = file.write_all(&vec![1; 128 * 1024]).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn root_the_old_way_gives_the_same() {
    let layers = Layers::new(&["top", "base", "upper"]);
    let lower = [layers.path("top"), layers.path("base")];
    let (upper, work) = (layers.path("upper"), layers.path("work"));
    let tree = classic::overlay(&lower, Some((&upper, &work)), true).unwrap();
    let root = tree.root().unwrap();
    assert_eq!(read(&root, "in-base"), "base");
    root.create_file("new", 0o644, true).unwrap();
    assert!(upper.join("new").exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(".rbuild-mount"));
}

#[test]
fn a_read_only_view_keeps_the_changes_on_top() {
    let mount = Mount::Overlay {
        lower: vec!["/a".into()],
        upper: Some("/u".into()),
        work: Some("/w".into()),
        volatile: true,
    };
    assert_eq!(mount.write_dir(), Some(Path::new("/u")));
    let view = mount.into_readonly();
    assert!(view.is_readonly());
    assert!(matches!(&view, Mount::Overlay { lower, .. } if lower == &[PathBuf::from("/u"), "/a".into()]));
}
