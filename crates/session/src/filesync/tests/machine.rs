//! Any sequence of packets leaves the receiver in a state that makes sense.

use proptest::prelude::*;

use super::*;
use crate::filesync::shown;

fn any_stat() -> impl Strategy<Value = Stat> {
    let path = prop::sample::select(vec!["a", "a/b", "a/b/c", "b", "b/x", "c", "../e", "/f", "a//g", ""]);
    let mode =
        prop::sample::select(vec![0o644, mode::DIR | 0o755, mode::SYMLINK | 0o777, mode::SOCKET, 1 << 12]);
    let target = prop::sample::select(vec!["", "a", "b", "/etc", "../../x"]);
    (path, mode, target, 0..4i64).prop_map(|(path, mode, target, size)| Stat {
        mode,
        linkname: target.into(),
        size,
        ..file(path, 0)
    })
}

fn any_packet() -> impl Strategy<Value = Packet> {
    prop_oneof![
        4 => any_stat().prop_map(listed),
        1 => Just(end_of_list()),
        3 => (0..5u32, prop::collection::vec(any::<u8>(), 0..5)).prop_map(|(id, bytes)| data(id, &bytes)),
        1 => Just(fin()),
        1 => (-1..9i32, 0..5u32).prop_map(|(kind, id)| packet(kind, id, b"", None)),
    ]
}

/// A list that is legal, with its contents.
fn any_tree() -> impl Strategy<Value = Vec<(Stat, Vec<u8>)>> {
    let names = prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c", "d"]), 0..4);
    let inner =
        prop::collection::btree_map("[a-d]", (any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..4);
    (names, inner).prop_map(|(names, inner)| {
        let mut list = Vec::new();
        for name in names {
            list.push((dir(name), Vec::new()));
            for (below, (is_link, bytes)) in &inner {
                let path = format!("{name}/{below}");
                match is_link {
                    true => list.push((link(&path, "x"), Vec::new())),
                    false => list.push((file(&path, bytes.len() as i64), bytes.clone())),
                }
            }
        }
        list
    })
}

fn packets_of(list: &[(Stat, Vec<u8>)], prev: Option<&TreeIndex>) -> Vec<Packet> {
    let mut packets: Vec<Packet> = list.iter().map(|(stat, _)| listed(stat.clone())).collect();
    packets.push(end_of_list());
    for (id, (stat, bytes)) in list.iter().enumerate() {
        let known = prev.and_then(|index| index.get(&stat.path)).is_some_and(|entry| entry.stat == *stat);
        if mode::is_regular(stat.mode) && !known {
            packets.extend(
                [data(id as u32, bytes), data(id as u32, b"")]
                    .into_iter()
                    .skip(usize::from(bytes.is_empty())),
            );
        }
    }
    packets.push(fin());
    packets
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn root_any_packets_end_in_a_true_index_or_an_error(packets in prop::collection::vec(any_packet(), 0..20)) {
        let outer = tempfile::tempdir().unwrap();
        let to = outer.path().join("to");
        std::fs::create_dir(&to).unwrap();
        if let Ok(index) = block_on(feed(packets, &to, None)) {
            for entry in index.entries() {
                prop_assert!(to.join(shown(&entry.stat.path)).symlink_metadata().is_ok(), "{:?}", entry.stat.path);
            }
        }
        prop_assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
    }

    #[test]
    fn root_an_update_equals_a_fresh_transfer(first in any_tree(), second in any_tree()) {
        let (kept, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = block_on(feed(packets_of(&first, None), kept.path(), None)).unwrap();
        // Equal stats mean equal content: what a client would say of a file it did not touch.
        let second: Vec<_> = second
            .into_iter()
            .map(|(stat, bytes)| {
                let same = first.iter().find(|(known, _)| *known == stat);
                same.cloned().unwrap_or((stat, bytes))
            })
            .collect();
        let updated = block_on(feed(packets_of(&second, Some(&before)), kept.path(), Some(&before))).unwrap();
        let anew = block_on(feed(packets_of(&second, None), fresh.path(), None)).unwrap();
        prop_assert_eq!(&updated, &anew);
        for entry in anew.entries().iter().filter(|entry| mode::is_regular(entry.stat.mode)) {
            let read = |dir: &Path| std::fs::read(dir.join(shown(&entry.stat.path))).unwrap();
            prop_assert_eq!(read(kept.path()), read(fresh.path()));
        }
        let count = |dir: &Path| walk(dir);
        prop_assert_eq!(count(kept.path()), anew.len());
    }
}

fn walk(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| 1 + if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { 0 }).sum()
}
