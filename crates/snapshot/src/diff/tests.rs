use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rbuild_oci::layer::LayerReader;
use rbuild_sys::{Mount, MountTree};

use super::*;
use crate::testing::{Dir, Node, dir, listing, put, tree};
use crate::{Applier, LayerForm, SnapshotError, copy_tree};

fn trees(base: Option<&Root>, upper: &Root) -> Vec<u8> {
    let mut out = Vec::new();
    Differ::new(base, DiffOptions::default()).diff_trees(upper, &mut out).unwrap();
    out
}

fn overlay(base: Option<&Root>, upper: &Root) -> Vec<u8> {
    let mut out = Vec::new();
    Differ::new(base, DiffOptions::default()).diff_overlay(upper, &mut out).unwrap();
    out
}

/// A base, an upper and a work directory on disk, mounted over each other.
struct Stack {
    base: Dir,
    upper: Dir,
    _work: Dir,
    tree: MountTree,
}

fn stack(fill: impl Fn(&Root)) -> Stack {
    let (base, upper, work) = (dir(), dir(), dir());
    fill(&base.root);
    let mount = Mount::Overlay {
        lower: vec![base.path.clone()],
        upper: Some(upper.path.clone()),
        work: Some(work.path.clone()),
        volatile: true,
    };
    let tree = MountTree::new(&mount).unwrap();
    Stack { base, upper, _work: work, tree }
}

#[test]
fn from_nothing_everything_comes_in_walk_order() {
    let upper = dir();
    for path in ["b.txt", "b/z", "b/a/x", "a"] {
        put(&upper.root, path, path.as_bytes(), 5);
    }
    upper.root.symlink("/b", "link").unwrap();
    let expected = ["- a", "d b", "d b/a", "- b/a/x", "- b/z", "- b.txt", "l link -> /b"];
    assert_eq!(listing(&trees(None, &upper.root)), expected);
    assert_eq!(overlay(None, &upper.root), trees(None, &upper.root));
}

#[test]
fn several_trees_fit_into_one_archive() {
    let upper = dir();
    put(&upper.root, "d/a", b"same", 5);
    upper.root.hard_link("d/a", "z").unwrap();
    upper.root.symlink("/d/a", "link").unwrap();
    let mut archive = LayerWriter::new(Vec::new());
    for below in ["one", "two"] {
        let differ = Differ::new(None, DiffOptions::default());
        archive = differ.append_tree(&upper.root, Path::new(below), archive).unwrap().1;
    }
    let expected = ["d one/d", "- one/d/a", "l one/link -> /d/a", "h one/z -> one/d/a"];
    let expected: Vec<_> = expected
        .iter()
        .map(|line| line.to_string())
        .chain(expected.map(|line| line.replace("one", "two")))
        .collect();
    assert_eq!(listing(&archive.finish().unwrap()), expected);
}

#[test]
fn an_archive_depends_on_the_state_alone() {
    let (one, two) = (dir(), dir());
    for (root, order) in [(&one.root, [0, 1, 2, 3]), (&two.root, [3, 1, 0, 2])] {
        for i in order {
            put(root, &format!("d/{i}"), &[i as u8; 10], 5);
        }
        root.utimes("d", 5_300_000_000).unwrap();
    }
    assert_eq!(trees(None, &one.root), trees(None, &two.root));
}

#[test]
fn names_of_one_file_become_links_and_sockets_are_left_out() {
    let upper = dir();
    put(&upper.root, "a", b"same", 5);
    upper.root.hard_link("a", "z").unwrap();
    upper.root.mknod("sock", 0o140_755, 0).unwrap();
    assert_eq!(listing(&trees(None, &upper.root)), ["- a", "h z -> a"]);
}

#[test]
fn a_new_name_of_an_old_file_brings_the_old_name_along() {
    let (base, upper) = (dir(), dir());
    put(&base.root, "d/old", b"same", 5);
    copy_tree(&base.root, &upper.root).unwrap();
    upper.root.hard_link("d/old", "new").unwrap();
    assert_eq!(
        listing(&trees(Some(&base.root), &upper.root)),
        ["- new", "d d", "h d/old -> new"].map(String::from).into_iter().collect::<Vec<_>>()
    );
}

#[test]
fn removed_and_replaced_things_leave_whiteouts_only_where_needed() {
    let (base, upper) = (dir(), dir());
    for path in ["d/a", "d/b", "gone/x/y", "kind/in"] {
        put(&base.root, path, b"1", 5);
    }
    copy_tree(&base.root, &upper.root).unwrap();
    upper.root.unlink("d/a").unwrap();
    upper.root.remove_all("gone").unwrap();
    upper.root.remove_all("kind").unwrap();
    put(&upper.root, "kind", b"a file now", 5);
    let expected = ["d d", "- d/.wh.a", "- .wh.gone", "- kind"];
    assert_eq!(listing(&trees(Some(&base.root), &upper.root)), expected);
}

#[test]
fn times_are_cut_at_the_epoch_and_to_whole_seconds() {
    let upper = dir();
    put(&upper.root, "late", b"", 2_000);
    put(&upper.root, "early", b"", 10);
    upper.root.utimes("early", 10_999_999_999).unwrap();
    let mut out = Vec::new();
    let options = DiffOptions { source_date_epoch: Some(100), ..DiffOptions::default() };
    Differ::new(None, options).diff_trees(&upper.root, &mut out).unwrap();
    let mut reader = LayerReader::new(&out[..]);
    let mut times = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        times.insert(entry.path, entry.mtime_ns);
    }
    assert_eq!(times[Path::new("late")], 100_000_000_000);
    assert_eq!(times[Path::new("early")], 10_000_000_000);
}

#[test]
fn root_capabilities_are_kept_and_attributes_of_the_host_are_not() {
    let upper = dir();
    put(&upper.root, "f", b"", 5);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    upper.root.xattr_set("f", "security.capability", &capability).unwrap();
    upper.root.xattr_set("f", "user.note", b"n").unwrap();
    upper.root.xattr_set("f", "trusted.host", b"n").unwrap();
    upper.root.xattr_set("f", "trusted.overlay.origin", b"n").unwrap();
    upper.root.xattr_set("f", "user.overlay.impure", b"n").unwrap();
    let out = overlay(None, &upper.root);
    let entry = LayerReader::new(&out[..]).next_entry().unwrap().unwrap();
    let keys: Vec<_> = entry.xattrs.keys().map(String::as_str).collect();
    assert_eq!(keys, ["security.capability"]);
    assert_eq!(entry.xattrs["security.capability"], capability);
    let mut files = Vec::new();
    let options = DiffOptions { attributes: Attributes::Users, ..DiffOptions::default() };
    Differ::new(None, options).diff_trees(&upper.root, &mut files).unwrap();
    let entry = LayerReader::new(&files[..]).next_entry().unwrap().unwrap();
    assert_eq!(entry.xattrs.keys().collect::<Vec<_>>(), ["security.capability", "user.note"]);
}

#[test]
fn root_overlay_changes_are_read_from_the_upper_directory() {
    let stack = stack(|base| {
        for path in ["d/a", "d/b", "opaque/x", "opaque/y", "gone/in", "touched"] {
            put(base, path, path.as_bytes(), 5);
        }
        base.utimes("d", 5_000_000_000).unwrap();
    });
    let root = stack.tree.root().unwrap();
    root.unlink("d/a").unwrap();
    root.remove_all("gone").unwrap();
    root.remove_all("opaque").unwrap();
    put(&root, "opaque/y", b"new", 6);
    put(&root, "brief", b"", 6);
    root.unlink("brief").unwrap();
    root.chmod("touched", 0o600).unwrap();
    root.chmod("touched", 0o644).unwrap(); // Copied up, and yet as before.
    let expected = ["d d", "- d/.wh.a", "- .wh.gone", "d opaque", "- opaque/.wh.x", "- opaque/y"];
    assert_eq!(listing(&overlay(Some(&stack.base.root), &stack.upper.root)), expected);
}

#[test]
fn root_equal_size_and_time_do_not_hide_a_change_in_an_overlay() {
    let stack = stack(|base| put(base, "f", b"before", 5));
    stack.base.root.utimes("f", 5_000_000_001).unwrap();
    let root = stack.tree.root().unwrap();
    put(&root, "f", b"after!", 5);
    root.utimes("f", 5_000_000_001).unwrap();
    assert_eq!(listing(&overlay(Some(&stack.base.root), &stack.upper.root)), ["- f"]);
}

#[test]
fn root_directories_that_lie_elsewhere_are_refused() {
    let upper = dir();
    upper.root.mkdir("d", 0o755).unwrap();
    upper.root.xattr_set("d", "trusted.overlay.redirect", b"/elsewhere").unwrap();
    let out = Differ::new(None, DiffOptions::default()).diff_overlay(&upper.root, Vec::new());
    assert!(matches!(out, Err(SnapshotError::OverlayFeature { feature: "redirect_dir", .. })));
}

#[test]
fn root_deep_trees_take_few_descriptors() {
    let (upper, copy) = (dir(), dir());
    let mut deep = upper.root.try_clone().unwrap();
    for _ in 0..3000 {
        deep.mkdir("d", 0o755).unwrap();
        deep = deep.open_dir("d").unwrap();
    }
    put(&deep, "bottom", b"x", 5);
    let out = trees(None, &upper.root);
    assert_eq!(listing(&out).len(), 3001);
    copy_tree(&upper.root, &copy.root).unwrap();
    assert!(trees(None, &copy.root) == out);
    assert_eq!(crate::disk_usage(&upper.root, crate::SharedFiles::Found).unwrap().inodes, 3002);
    for root in [&upper.root, &copy.root] {
        root.remove_all("d").unwrap();
    }
}

#[test]
fn root_copies_equal_their_source() {
    let (from, to) = (dir(), dir());
    put(&from.root, "d/f", b"content", 5);
    from.root.hard_link("d/f", "d/g").unwrap();
    from.root.symlink("nowhere", "l").unwrap();
    from.root.mknod("null", 0o020_666, rbuild_sys::makedev(1, 3)).unwrap();
    from.root.chmod("d", 0o2750).unwrap();
    from.root.chown("d", 7, 8).unwrap();
    from.root.xattr_set("d/f", "user.note", b"n").unwrap();
    from.root.utimes("d", 77_000_000_000).unwrap();
    copy_tree(&from.root, &to.root).unwrap();
    assert_eq!(tree(&to.root), tree(&from.root));
    assert_eq!(listing(&trees(Some(&from.root), &to.root)), [""; 0]);
}

#[test]
fn root_listing_by_gnu_tar_agrees() {
    let upper = dir();
    put(&upper.root, &format!("{}/x", "long-name-".repeat(20)), b"1", 5);
    put(&upper.root, "d/grüße", b"22", 5);
    upper.root.hard_link("d/grüße", "hard").unwrap();
    let out = trees(None, &upper.root);
    let archive = dir();
    put(&archive.root, "layer.tar", &out, 5);
    let tar = std::process::Command::new("tar")
        .args(["--quoting-style=literal", "-tf"])
        .arg(archive.path.join("layer.tar"))
        .output()
        .unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    let names: Vec<String> = String::from_utf8(tar.stdout).unwrap().lines().map(str::to_owned).collect();
    let ours: Vec<String> = listing(&out)
        .iter()
        .map(|line| {
            let name = line[2..].split(" -> ").next().unwrap();
            if line.starts_with('d') { format!("{name}/") } else { name.to_owned() }
        })
        .collect();
    assert_eq!(names, ours);
}

/// Something a build step may do.
#[derive(Debug, Clone)]
enum Act {
    Write(usize, Vec<u8>),
    Mkdir(usize),
    Remove(usize),
    Symlink(usize, usize),
    HardLink(usize, usize),
    Rename(usize, usize),
    Chmod(usize, u32),
    Capability(usize, u8),
}

/// Few names, so that acts meet.
const NAMES: [&str; 9] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/f", "d/e/f/a"];

fn act() -> impl Strategy<Value = Act> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => (name.clone(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(n, b)| Act::Write(n, b)),
        3 => name.clone().prop_map(Act::Mkdir),
        3 => name.clone().prop_map(Act::Remove),
        1 => (name.clone(), name.clone()).prop_map(|(a, b)| Act::Symlink(a, b)),
        1 => (name.clone(), name.clone()).prop_map(|(a, b)| Act::HardLink(a, b)),
        1 => (name.clone(), name.clone()).prop_map(|(a, b)| Act::Rename(a, b)),
        1 => (name.clone(), 0o600..0o777u32).prop_map(|(n, m)| Act::Chmod(n, m)),
        1 => (name, any::<u8>()).prop_map(|(n, v)| Act::Capability(n, v)),
    ]
}

/// Does it if it can be done; times are set so that they tell nothing.
fn perform(root: &Root, act: &Act) {
    use std::io::Write as _;
    let done = match act {
        Act::Write(n, bytes) => root.create_file(NAMES[*n], 0o644, false).map(|mut file| {
            file.write_all(bytes).unwrap();
            root.utimes(NAMES[*n], 5_000_000_000).unwrap();
        }),
        Act::Mkdir(n) => root.mkdir(NAMES[*n], 0o755),
        Act::Remove(n) => root.remove_all(NAMES[*n]),
        Act::Symlink(a, b) => root.symlink(NAMES[*a], NAMES[*b]),
        Act::HardLink(a, b) => root.hard_link(NAMES[*a], NAMES[*b]),
        Act::Rename(a, b) => root.rename(NAMES[*a], root, NAMES[*b]),
        Act::Chmod(n, mode) => root.chmod(NAMES[*n], *mode),
        // On files, where it means something: a layer cannot say that a directory that stays has lost an attribute.
        Act::Capability(n, _) if !root.stat(NAMES[*n]).is_ok_and(|stat| stat.is_file()) => Ok(()),
        Act::Capability(n, value) => {
            let capability = [1, 0, 0, 2, *value, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            root.xattr_set(NAMES[*n], "security.capability", &capability)
        }
    };
    drop(done);
}

/// Without what a layer does not promise: times of directories and symlinks, and names of one file that were one file
/// across layers.
fn plain(root: &Root) -> BTreeMap<PathBuf, Node> {
    let mut nodes = tree(root);
    for node in nodes.values_mut() {
        node.first = PathBuf::new();
        if node.mode & 0o170_000 != 0o100_000 {
            node.mtime_s = 0;
        }
    }
    nodes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn root_diff_and_apply_are_inverse(
        before in proptest::collection::vec(act(), 0..25),
        after in proptest::collection::vec(act(), 0..25),
    ) {
        let stack = stack(|base| before.iter().for_each(|act| perform(base, act)));
        let merged = stack.tree.root().unwrap();
        after.iter().for_each(|act| perform(&merged, act));
        let expected = plain(&merged);
        let base = &stack.base.root;
        let fast = overlay(Some(base), &stack.upper.root);
        for layer in [&fast, &trees(Some(base), &merged)] {
            let full = dir();
            copy_tree(base, &full.root).unwrap();
            Applier::new(&full.root, LayerForm::Full).apply(&layer[..]).unwrap();
            prop_assert_eq!(&plain(&full.root), &expected, "{:?}", listing(layer));

            let upper = dir();
            Applier::new(&upper.root, LayerForm::Overlay).with_parents(base).apply(&layer[..]).unwrap();
            let lower = vec![upper.path.clone(), stack.base.path.clone()];
            let mount = Mount::Overlay { lower, upper: None, work: None, volatile: false };
            let again = MountTree::new(&mount).unwrap();
            prop_assert_eq!(&plain(&again.root().unwrap()), &expected, "{:?}", listing(layer));
            let second = overlay(Some(base), &upper.root);
            // Which name of a file comes first, and whether it is written again, is free where a layer has hard links.
            if !listing(layer).iter().any(|entry| entry.starts_with("h ")) {
                prop_assert_eq!(listing(&second), listing(layer), "unpacked and diffed again it is the same");
            }
        }
    }
}
