//! Packets one by one and packets in batches: the same trees, the same refusals.

use std::fs;

use proptest::prelude::*;

use super::round_trip::{describe, sample};
use super::*;
use crate::SessionError;

const BATCHED: Form = Form::Batched { compress: false };

async fn sync_in(form: Form, from: &Path, to: &Path, prev: Option<&TreeIndex>) -> Result<TreeIndex> {
    sync_as(form, from, to, prev, FileSyncRequest::default(), &ReceiveOptions::default()).await
}

#[tokio::test]
async fn root_a_tree_arrives_the_same_in_every_form() {
    let from = tempfile::tempdir().unwrap();
    sample(from.path());
    let mut indexes = Vec::new();
    for form in FORMS {
        let to = tempfile::tempdir().unwrap();
        let index = sync_in(form, from.path(), to.path(), None).await.unwrap();
        assert_eq!(describe(from.path()), describe(to.path()), "{form:?}");
        indexes.push(index);
    }
    assert!(indexes.iter().all(|index| *index == indexes[0]));
}

#[tokio::test]
async fn root_a_copy_made_in_one_form_is_brought_up_to_date_in_another() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(from.path());
    let mut index = sync_in(Form::Single, from.path(), to.path(), None).await.unwrap();
    for (turn, form) in FORMS.iter().rev().enumerate() {
        fs::write(from.path().join("a/small"), format!("turn {turn}")).unwrap();
        let counter = crate::filesync::TransferCounter::new();
        let options = ReceiveOptions { counter: counter.clone(), ..ReceiveOptions::default() };
        let (filter, prev) = (FileSyncRequest::default(), Some(&index));
        index = sync_as(*form, from.path(), to.path(), prev, filter, &options).await.unwrap();
        assert_eq!(describe(from.path()), describe(to.path()), "{form:?}");
        assert_eq!(counter.files(), 1, "{form:?}");
    }
}

#[tokio::test]
async fn a_batched_file_may_not_go_on_behind_its_announced_end() {
    for size in [3, 200_000] {
        let to = tempfile::tempdir().unwrap();
        let content = vec![b'x'; size + 1];
        let mut packets = vec![listed(file("a", size as i64)), end_of_list()];
        packets.extend(content.chunks(100_000).map(|chunk| data(0, chunk)));
        let err = feed_as(BATCHED, packets, to.path(), None).await.unwrap_err();
        assert!(matches!(err, SessionError::Violation { .. }), "{err}");
    }
}

#[tokio::test]
async fn a_batched_file_that_ends_early_is_an_error() {
    let to = tempfile::tempdir().unwrap();
    let start = || vec![listed(file("a", 3)), end_of_list(), data(0, b"ab")];
    let ended = [start(), vec![data(0, b"")]].concat();
    let err = feed_as(BATCHED, ended, to.path(), None).await.unwrap_err();
    assert!(matches!(err, SessionError::Short { announced: 3, received: 2, .. }), "{err}");
    let cut = [start(), vec![fin()]].concat();
    let err = feed_as(BATCHED, cut, to.path(), None).await.unwrap_err();
    assert!(matches!(err, SessionError::Ended { .. }), "{err}");
}

/// Sizes around every boundary: of packets, of what is held whole, of batches.
fn any_size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..200_usize,
        1 => prop::sample::select(vec![32 * 1024_usize, 128 * 1024, 256 * 1024, 512 * 1024])
            .prop_flat_map(|size| size - 1..size + 2),
    ]
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn root_every_form_gives_the_same_tree(
        tree in prop::collection::btree_map("[a-c](/[a-c]){0,2}", (any_size(), any::<u8>()), 0..12),
        changed in prop::collection::vec(any_size(), 12),
    ) {
        let from = tempfile::tempdir().unwrap();
        let write = |path: &str, size: usize, byte: u8| {
            let path = from.path().join(path);
            // A name may be a file and a directory in turn; whoever comes first stays.
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.is_dir() {
                fs::write(path, vec![byte; size]).unwrap();
            }
        };
        for (path, (size, byte)) in &tree {
            write(path, *size, *byte);
        }
        let copies: Vec<_> = FORMS.map(|form| (form, tempfile::tempdir().unwrap())).into();
        let sync_all = |prev: &[Option<TreeIndex>]| -> Vec<Option<TreeIndex>> {
            let turns = copies.iter().zip(prev);
            turns.map(|((form, to), prev)| {
                Some(block_on(sync_in(*form, from.path(), to.path(), prev.as_ref())).unwrap())
            }).collect()
        };
        let first = sync_all(&[None, None, None]);
        for ((path, (_, byte)), size) in tree.iter().zip(changed).step_by(2) {
            write(path, size, byte.wrapping_add(1));
        }
        let second = sync_all(&first);
        for ((form, to), index) in copies.iter().zip(&second) {
            prop_assert_eq!(describe(from.path()), describe(to.path()), "{:?}", form);
            prop_assert_eq!(index, &second[0]);
        }
    }
}
