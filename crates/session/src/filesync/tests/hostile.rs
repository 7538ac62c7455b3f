use std::fs;
use std::time::Duration;

use super::*;
use crate::SessionError;
use crate::filesync::Limits;

#[tokio::test]
async fn root_lists_that_break_the_rules_are_refused() {
    let device = |path: &str, major, minor| Stat {
        mode: mode::DEVICE | mode::CHAR_DEVICE | 0o600,
        devmajor: major,
        devminor: minor,
        ..file(path, 0)
    };
    let cases: Vec<(&str, Vec<Stat>)> = vec![
        ("leads up", vec![dir(".."), file("../x", 0)]),
        ("absolute", vec![file("/etc/x", 0)]),
        ("double slash", vec![dir("a"), file("a//b", 0)]),
        ("dot", vec![file("./a", 0)]),
        ("NUL", vec![file("a\0b", 0)]),
        ("empty path", vec![file("", 0)]),
        ("slash at the end", vec![dir("a/")]),
        ("repeated", vec![file("a", 0), file("a", 0)]),
        ("repeated as another type", vec![file("a", 0), dir("a")]),
        ("out of order", vec![file("b", 0), file("a", 0)]),
        ("parent after child", vec![file("a/b", 0), dir("a")]),
        ("below a file", vec![file("a", 0), file("a/b", 0)]),
        ("below a symlink", vec![link("a", "/etc"), file("a/passwd", 0)]),
        ("hard link to nothing", vec![hard("a", "zzz")]),
        ("hard link to a later file", vec![hard("a", "b"), file("b", 0)]),
        ("hard link out of the tree", vec![hard("a", "../../etc/passwd")]),
        ("hard link to itself", vec![hard("a", "a")]),
        ("hard link to a symlink", vec![link("a", "/etc/shadow"), hard("b", "a")]),
        ("hard link to a directory", vec![dir("a"), hard("b", "a")]),
        ("hard link to a hard link", vec![file("a", 0), hard("b", "a"), hard("c", "b")]),
        ("directory as hard link", vec![file("a", 0), Stat { linkname: "a".into(), ..dir("b") }]),
        ("several types", vec![Stat { mode: mode::DIR | mode::SYMLINK, ..file("a", 0) }]),
        ("unknown type bits", vec![Stat { mode: 1 << 12, ..file("a", 0) }]),
        ("negative size", vec![file("a", -1)]),
        ("symlink to nowhere", vec![link("a", "")]),
        ("symlink with NUL", vec![link("a", "x\0y")]),
        ("whiteout", vec![device("a", 0, 0)]),
        ("impossible device", vec![device("a", 1 << 40, 0)]),
        ("negative device", vec![device("a", 1, -1)]),
        ("long name", vec![file(&"x".repeat(256), 0)]),
    ];
    for (name, list) in cases {
        let outer = tempfile::tempdir().unwrap();
        let to = outer.path().join("to");
        fs::create_dir(&to).unwrap();
        // Everything that may be asked for is there, so that only the list can be at fault.
        let contents: Vec<Packet> = (0..list.len() as u32).map(|id| data(id, b"")).collect();
        let mut packets: Vec<Packet> = list.into_iter().map(listed).collect();
        packets.push(end_of_list());
        packets.extend(contents);
        packets.push(fin());
        let result = feed(packets, &to, None).await;
        assert!(matches!(result, Err(SessionError::Violation { .. })), "{name}: {result:?}");
        let outside: Vec<_> =
            fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(outside, ["to"], "{name}");
    }
}

#[tokio::test]
async fn root_streams_that_break_the_rules_are_refused() {
    let one = || listed(file("a", 3));
    let cases: Vec<(&str, Vec<Packet>)> = vec![
        ("data nobody asked for", vec![one(), end_of_list(), data(7, b"x")]),
        ("data of a directory", vec![listed(dir("a")), end_of_list(), one(), data(0, b"x")]),
        (
            "data after the end of a file",
            vec![one(), listed(file("b", 1)), data(0, b"abc"), data(0, b""), data(0, b"x")],
        ),
        ("a list after its end", vec![one(), end_of_list(), listed(file("b", 0))]),
        ("a second end of the list", vec![one(), end_of_list(), end_of_list()]),
        ("a request from the sender", vec![one(), packet(1, 0, b"", None)]),
        ("an unknown packet", vec![one(), packet(99, 0, b"", None)]),
    ];
    for (name, packets) in cases {
        let to = tempfile::tempdir().unwrap();
        let result = feed(packets, to.path(), None).await;
        assert!(matches!(result, Err(SessionError::Violation { .. })), "{name}: {result:?}");
    }
}

#[tokio::test]
async fn a_sender_that_stops_early_is_an_error_that_says_where() {
    let to = tempfile::tempdir().unwrap();
    for packets in [vec![], vec![listed(file("a", 3))], vec![listed(file("a", 3)), end_of_list(), fin()]] {
        let err = feed(packets, to.path(), None).await.unwrap_err();
        assert!(matches!(err, SessionError::Ended { .. }), "{err}");
    }
    let err = feed(vec![listed(file("a", 3)), packet(4, 0, b"disk on fire", None)], to.path(), None)
        .await
        .unwrap_err();
    assert_eq!(err.to_string(), "error from sender: disk on fire");
    let short = vec![listed(file("a", 3)), end_of_list(), data(0, b"ab"), data(0, b""), fin()];
    let err = feed(short, to.path(), None).await.unwrap_err();
    assert!(matches!(err, SessionError::Short { announced: 3, received: 2, .. }), "{err}");
}

#[tokio::test]
async fn root_a_file_that_grew_is_recorded_as_it_is() {
    for size in [5, 300_000] {
        let to = tempfile::tempdir().unwrap();
        let content = vec![b'x'; size];
        let mut packets = vec![listed(file("a", 3)), end_of_list()];
        packets.extend(content.chunks(32 * 1024).map(|chunk| data(0, chunk)));
        packets.extend([data(0, b""), fin()]);
        let index = feed(packets, to.path(), None).await.unwrap();
        let entry = index.get("a").unwrap();
        assert_eq!(entry.stat.size as usize, size);
        assert_eq!(entry.digest, digest(&entry.stat, &content));
        assert_eq!(fs::read(to.path().join("a")).unwrap(), content);
    }
}

#[tokio::test]
async fn an_endless_file_is_cut_off() {
    let to = tempfile::tempdir().unwrap();
    let chunk = vec![0; 256 * 1024];
    let (say, _said) = mpsc::unbounded_channel();
    let start = [listed(file("a", 3)), end_of_list()];
    let packets = futures::stream::iter(start).chain(futures::stream::repeat(data(0, &chunk))).map(Ok);
    let options = ReceiveOptions::default();
    let err = run(packets, say, Root::open(to.path()).unwrap(), None, None, &options).await.unwrap_err();
    assert!(matches!(err, SessionError::Violation { .. }), "{err}");
}

#[tokio::test]
async fn limits_and_stalls_end_a_transfer() {
    let to = tempfile::tempdir().unwrap();
    let limits = Limits { max_entries: 10, max_list_bytes: 1000, stall: Duration::from_millis(50) };
    let options = ReceiveOptions { limits, ..ReceiveOptions::default() };
    let endless = futures::stream::iter(0..).map(|n| Ok(listed(file(&format!("{n:09}"), 0))));
    let (say, _said) = mpsc::unbounded_channel();
    let err = run(endless, say, Root::open(to.path()).unwrap(), None, None, &options).await.unwrap_err();
    assert!(matches!(err, SessionError::Limit { limit: 10, .. }), "{err}");
    let long = futures::stream::iter([Ok(listed(link("a", &"x".repeat(1001))))]);
    let (say, _said) = mpsc::unbounded_channel();
    let err = run(long, say, Root::open(to.path()).unwrap(), None, None, &options).await.unwrap_err();
    assert!(matches!(err, SessionError::Limit { limit: 1000, .. }), "{err}");
    let silent = futures::stream::iter([Ok(listed(file("a", 1)))]).chain(futures::stream::pending());
    let (say, _said) = mpsc::unbounded_channel();
    let err = run(silent, say, Root::open(to.path()).unwrap(), None, None, &options).await.unwrap_err();
    assert!(matches!(&err, SessionError::Stalled { last, .. } if last == "a"), "{err}");
}

#[tokio::test]
async fn many_half_sent_files_are_refused() {
    let to = tempfile::tempdir().unwrap();
    let mut packets: Vec<Packet> = (0..2000).map(|n| listed(file(&format!("{n:04}"), 1 << 20))).collect();
    packets.push(end_of_list());
    for _ in 0..2 {
        packets.extend((0..2000).map(|id| data(id, &[1; 100_000])));
    }
    let err = feed(packets, to.path(), None).await.unwrap_err();
    assert!(matches!(err, SessionError::Limit { .. }), "{err}");
}

#[tokio::test]
async fn root_attributes_that_steer_the_kernel_are_dropped() {
    let to = tempfile::tempdir().unwrap();
    let mut stat = file("a", 0);
    for key in
        ["trusted.overlay.redirect", "user.overlay.opaque", "security.selinux", "system.posix_acl_access"]
    {
        stat.xattrs.insert(key.into(), b"y".to_vec());
    }
    let index = feed(vec![listed(stat), end_of_list(), data(0, b""), fin()], to.path(), None).await.unwrap();
    assert!(index.get("a").unwrap().stat.xattrs.is_empty());
    let root = Root::open(to.path()).unwrap();
    assert!(root.xattr_list("a").unwrap().is_empty());
}

#[tokio::test]
async fn root_sockets_are_skipped_and_replace_nothing_by_themselves() {
    let to = tempfile::tempdir().unwrap();
    let socket = Stat { mode: mode::SOCKET | 0o600, ..file("s", 0) };
    let first =
        feed(vec![listed(file("s", 0)), end_of_list(), data(0, b""), fin()], to.path(), None).await.unwrap();
    let index = feed(vec![listed(socket), end_of_list(), fin()], to.path(), Some(&first)).await.unwrap();
    assert!(index.is_empty());
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}
