use rbuild_oci::layer::{EntryKind, LayerEntry};
use rbuild_sys::{Mount, MountTree};

use super::*;
use crate::testing::{Dir, archive, bare, dir, entry, file, link, paths, put, tree};
use crate::xattr;
use EntryKind::{CharDevice, Directory, Fifo, HardLink, Symlink};

fn apply(form: LayerForm, dest: &Dir, entries: &[(LayerEntry, &[u8])]) -> Result<ApplyStats> {
    Applier::new(&dest.root, form).apply(&archive(entries)[..])
}

/// Unpacks into a new directory beside a canary, in both forms, and gives back what was made in full form.
fn unpack(entries: &[(LayerEntry, &[u8])]) -> Result<Dir> {
    apply(LayerForm::Overlay, &dir(), entries)?;
    let dest = dir();
    apply(LayerForm::Full, &dest, entries)?;
    Ok(dest)
}

fn text(dest: &Dir, path: &str) -> String {
    String::from_utf8(dest.root.read_limited(path, 1 << 20).unwrap()).unwrap()
}

#[test]
fn root_modes_owners_times_and_kinds_are_exact() {
    let mut suid = file("bin/su", b"su");
    suid.0.mode = 0o4755;
    (suid.0.uid, suid.0.gid, suid.0.mtime_ns) = (1000, 2000, 1_234_567_890 * 1_000_000_000);
    suid.0.xattrs.insert("user.note".into(), b"hi".to_vec());
    let mut sticky = bare("tmp", Directory);
    (sticky.0.mode, sticky.0.mtime_ns) = (0o1777, 1_000_000_000);
    let mut null = bare("dev/null", CharDevice);
    (null.0.mode, null.0.device) = (0o666, (1, 3));
    let entries =
        [suid, sticky, null, bare("run/pipe", Fifo), file("tmp/x", b""), link("sh", Symlink, "/bin/su")];
    let dest = unpack(&entries).unwrap();
    let nodes = tree(&dest.root);
    let su = &nodes[Path::new("bin/su")];
    assert_eq!((su.mode & 0o7777, su.owner, su.mtime_s), (0o4755, (1000, 2000), 1_234_567_890));
    assert_eq!(su.xattrs, [("user.note".into(), b"hi".to_vec())]);
    let tmp = &nodes[Path::new("tmp")];
    assert_eq!((tmp.mode & 0o7777, tmp.mtime_s), (0o1777, 1), "time survives the file made in it later");
    assert_eq!(nodes[Path::new("dev/null")].rdev, rbuild_sys::makedev(1, 3));
    assert_eq!(nodes[Path::new("sh")].content, b"/bin/su");
    assert_eq!(dest.root.stat("run/pipe").unwrap().kind(), rbuild_sys::FileKind::Fifo);
}

#[test]
fn root_a_symlink_made_by_the_archive_leads_inside_only() {
    let canary = dir();
    let target = canary.path.display().to_string();
    for climb in [target.clone(), format!("../../../../../../..{target}"), "/".into(), "..".into()] {
        let entries = [link("out", Symlink, &climb), file("out/canary", b"written through the link")];
        let dest = unpack(&entries).unwrap();
        assert!(paths(&canary.root).is_empty(), "{climb}");
        assert!(dest.root.exists("out/canary").unwrap(), "{climb}");
        assert_eq!(dest.root.read_link("out").unwrap(), Path::new(&climb), "links stay as they are");
    }
}

#[test]
fn root_a_chain_of_symlinks_is_followed_and_a_loop_is_an_error() {
    let mut entries: Vec<_> =
        (0..30).map(|i| link(&format!("l{i}"), Symlink, &format!("l{}", i + 1))).collect();
    entries.push(link("l30", Symlink, "real/deep"));
    entries.push(file("l0/f", b"x"));
    let dest = unpack(&entries).unwrap();
    assert_eq!(text(&dest, "real/deep/f"), "x", "a dangling link is made true, as upstream does");
    let looped = [link("a", Symlink, "b"), link("b", Symlink, "a"), file("a/f", b"x")];
    assert!(unpack(&looped).is_err());
}

#[test]
fn root_hard_links_reach_nothing_outside() {
    let host = dir();
    put(&host.root, "secret", b"secret", 1);
    let secret = host.path.join("secret").display().to_string();
    for entries in [
        vec![link("x", HardLink, &secret)],
        vec![link("up", Symlink, &host.path.display().to_string()), link("x", HardLink, "up/secret")],
        vec![link("x", HardLink, "x")],
        vec![link("x", HardLink, "later"), file("later", b"")],
        vec![bare("d", Directory), link("x", HardLink, "d")],
    ] {
        let err = unpack(&entries).unwrap_err();
        assert!(matches!(err, SnapshotError::InvalidEntry { .. }), "{err}");
    }
    assert_eq!(host.root.stat("secret").unwrap().nlink, 1);
}

#[test]
fn root_a_hard_link_to_a_symlink_links_the_symlink() {
    let host = dir();
    put(&host.root, "secret", b"secret", 1);
    let secret = host.path.join("secret").display().to_string();
    let dest = unpack(&[link("s", Symlink, &secret), link("x", HardLink, "s")]).unwrap();
    assert!(dest.root.stat("x").unwrap().is_symlink());
    assert_eq!(host.root.stat("secret").unwrap().uid, 0);
    assert_eq!(host.root.stat("secret").unwrap().mtime_ns, 1_000_000_000);
}

#[test]
fn root_later_entries_replace_earlier_ones_whatever_they_are() {
    let entries = [
        file("a", b"file"),
        bare("a", Directory),
        file("a/in", b"1"),
        link("l", Symlink, "a"),
        file("l", b"plain"),
        bare("d", Directory),
        file("d/in", b"2"),
        file("d", b"now a file"),
    ];
    let dest = unpack(&entries).unwrap();
    assert_eq!(paths(&dest.root), ["a", "a/in", "d", "l"]);
    assert_eq!((text(&dest, "l"), text(&dest, "d")), ("plain".into(), "now a file".into()));
    assert_eq!(text(&dest, "a/in"), "1", "the link was replaced, not followed");
}

#[test]
fn root_a_file_as_parent_is_an_error() {
    let err = unpack(&[file("a", b"x"), file("a/b", b"y")]).unwrap_err();
    assert!(err.to_string().contains("a parent is not a directory"), "{err}");
}

#[test]
fn root_whiteouts_of_nothing_are_refused() {
    for name in [".wh.", "d/.wh..", "d/.wh..."] {
        assert!(unpack(&[bare("d", Directory), file(name, b"")]).is_err(), "{name}");
    }
    let dest = unpack(&[file(".wh..wh.plnk", b""), file("x", b"")]).unwrap();
    assert_eq!(paths(&dest.root), ["x"]);
}

/// Applies `entries` over a lower layer in both forms and gives back the two merged file systems' paths.
fn over(lower: &[(&str, &str)], entries: &[(LayerEntry, &[u8])]) -> Vec<String> {
    let (below, upper, full) = (dir(), dir(), dir());
    for (path, content) in lower {
        put(&below.root, path, content.as_bytes(), 1);
        put(&full.root, path, content.as_bytes(), 1);
    }
    let bytes = archive(entries);
    Applier::new(&upper.root, LayerForm::Overlay).with_parents(&below.root).apply(&bytes[..]).unwrap();
    Applier::new(&full.root, LayerForm::Full).apply(&bytes[..]).unwrap();
    let lower = vec![upper.path.clone(), below.path.clone()];
    let mount = Mount::Overlay { lower, upper: None, work: None, volatile: false };
    let merged = MountTree::new(&mount).unwrap();
    let shown = paths(&merged.root().unwrap());
    assert_eq!(shown, paths(&full.root), "both forms show the same");
    shown
}

#[test]
fn root_whiteouts_hide_the_layers_below_and_nothing_of_their_own() {
    let lower = [("d/a", "1"), ("d/b", "2"), ("e/x", "3"), ("top", "4")];
    assert_eq!(over(&lower, &[file("d/.wh.a", b""), file(".wh.top", b"")]), ["d", "d/b", "e", "e/x"]);
    assert_eq!(over(&lower, &[file(".wh.d", b""), file(".wh.nothing", b"")]), ["e", "e/x", "top"]);
    let opaque = [file("d/new", b""), file("d/.wh..wh..opq", b""), file("d/new2", b"")];
    assert_eq!(over(&lower, &opaque), ["d", "d/new", "d/new2", "e", "e/x", "top"]);
    let root = [file(".wh..wh..opq", b""), file("d/new", b"")];
    assert_eq!(over(&lower, &root), ["d", "d/new"]);
    let deep = [file("d/sub/new", b""), file("d/.wh..wh..opq", b"")];
    assert_eq!(over(&lower, &deep), ["d", "d/sub", "d/sub/new", "e", "e/x", "top"]);
}

#[test]
fn root_a_whiteout_and_a_new_thing_of_that_name_may_come_in_any_order() {
    let lower = [("d/a", "1"), ("e/x", "3")];
    let replaced = ["d", "d/new", "e", "e/x"];
    assert_eq!(over(&lower, &[file(".wh.d", b""), bare("d", Directory), file("d/new", b"")]), replaced);
    assert_eq!(over(&lower, &[file(".wh.d", b""), file("d/new", b"")]), replaced);
    assert_eq!(over(&lower, &[bare("d", Directory), file("d/new", b""), file(".wh.d", b"")]), replaced);
    assert_eq!(over(&lower, &[file("d", b"file"), file(".wh.d", b"")]), ["d", "e", "e/x"]);
    assert_eq!(over(&lower, &[file(".wh.d", b""), file("d", b"file")]), ["d", "e", "e/x"]);
}

#[test]
fn root_a_whiteout_through_a_symlinked_parent_stays_inside() {
    let canary = dir();
    put(&canary.root, "keep", b"x", 1);
    let out = canary.path.display().to_string();
    let entries = [link("out", Symlink, &out), file("out/.wh.keep", b""), file("out/.wh..wh..opq", b"")];
    unpack(&entries).unwrap();
    assert_eq!(paths(&canary.root), ["keep"]);
}

#[test]
fn root_overlay_marks_from_outside_are_dropped() {
    let (below, upper) = (dir(), dir());
    put(&below.root, "d/a", b"1", 1);
    put(&below.root, "victim", b"2", 1);
    let mut opaque = bare("d", Directory);
    for key in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        opaque.0.xattrs.insert(key.into(), b"y".to_vec());
    }
    opaque.0.xattrs.insert("trusted.overlay.redirect".into(), b"/victim".to_vec());
    let whiteout = bare("victim", CharDevice);
    let bytes = archive(&[opaque, whiteout]);
    Applier::new(&upper.root, LayerForm::Overlay).with_parents(&below.root).apply(&bytes[..]).unwrap();
    assert_eq!(paths(&upper.root), ["d"]);
    let attrs = xattr::inspect(&upper.root, "d".as_ref(), xattr::goes_into_layer).unwrap();
    assert!(!attrs.opaque && attrs.feature.is_none());
}

#[test]
fn root_links_and_parents_are_taken_from_the_layers_below() {
    let (below, upper) = (dir(), dir());
    put(&below.root, "d/sub/a", b"content", 7);
    below.root.chmod("d/sub", 0o710).unwrap();
    below.root.chown("d/sub", 5, 6).unwrap();
    below.root.utimes("d/sub", 9_000_000_000).unwrap();
    let mut hard = link("new/b", HardLink, "d/sub/a");
    hard.0.mtime_ns = 7_000_000_000;
    let bytes = archive(&[hard]);
    Applier::new(&upper.root, LayerForm::Overlay).with_parents(&below.root).apply(&bytes[..]).unwrap();
    let nodes = tree(&upper.root);
    assert_eq!(nodes[Path::new("new/b")].content, b"content");
    assert_eq!(nodes[Path::new("new/b")].first, Path::new("d/sub/a"), "one file with two names");
    let sub = &nodes[Path::new("d/sub")];
    assert_eq!((sub.mode & 0o777, sub.owner, sub.mtime_s), (0o710, (5, 6), 9));
}

#[test]
fn root_trees_deeper_than_a_path_may_be_long_are_unpacked() {
    let deep = "d/".repeat(3000);
    let dest = unpack(&[file(&format!("{deep}f"), b"bottom"), file(&format!("{deep}g"), b"")]).unwrap();
    let bottom = crate::deep::open_deep(&dest.root, Path::new(deep.trim_end_matches('/'))).unwrap();
    assert_eq!(bottom.read_limited("f", 100).unwrap(), b"bottom");
    assert!(bottom.exists("g").unwrap());
    dest.root.remove_all("d").unwrap();
}

#[test]
fn a_truncated_archive_is_an_error() {
    let bytes = archive(&[file("a", &[7; 2000])]);
    for cut in [100, 512, 700, 2000] {
        let dest = dir();
        let err = Applier::new(&dest.root, LayerForm::Full).apply(&bytes[..cut]).unwrap_err();
        assert!(matches!(err, SnapshotError::Archive(_)), "{cut}: {err}");
    }
}

#[test]
fn names_that_climb_are_an_error() {
    let bytes = archive(&[file("a", b"x")]);
    let at = bytes.windows(2).position(|w| w == b"a\0").unwrap();
    let mut evil = bytes.clone();
    evil[at..at + 4].copy_from_slice(b"../a");
    // The check sum is the sum of the header's bytes with its own field as spaces.
    evil[148..156].fill(b' ');
    let sum: u32 = evil[..512].iter().map(|b| u32::from(*b)).sum();
    evil[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let dest = dir();
    assert!(Applier::new(&dest.root, LayerForm::Full).apply(&evil[..]).is_err());
    assert!(paths(&dest.root).is_empty());
    let entry = entry("x", Directory);
    assert_eq!(entry.mode, 0o755);
}
