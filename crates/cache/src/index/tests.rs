use proptest::prelude::*;
use rbuild_oci::media;

use super::*;
use crate::format::{Layer, Link, Outcome as Result, Record, output_key};

fn blob(name: &str) -> Descriptor {
    Descriptor::new(media::OCI_LAYER_GZIP, Digest::of(name), 3)
        .with_annotation(media::ANNOTATION_UNCOMPRESSED, Digest::of(format!("diff {name}")).to_string())
}

fn part(layers: &[(&str, i64)], records: Vec<Record>) -> Part {
    let layer =
        |(name, parent): &(&str, i64)| Layer { blob: Digest::of(name), parent: *parent, annotations: None };
    Part {
        config: Config { layers: layers.iter().map(layer).collect(), records, mounts: Vec::new() },
        blobs: layers.iter().map(|(name, _)| (Digest::of(name), blob(name))).collect(),
    }
}

fn record(name: &str, layers: &[i64], inputs: &[&[i64]]) -> Record {
    Record {
        results: layers.iter().map(|layer| Result { layer: *layer, created_at: String::new() }).collect(),
        chains: Vec::new(),
        digest: output_key(&Digest::of(name), 0),
        inputs: inputs
            .iter()
            .map(|links| links.iter().map(|link| Link { selector: String::new(), link: *link }).collect())
            .collect(),
    }
}

fn digests(index: &Index, record: RecordIx) -> Vec<Vec<Digest>> {
    index.results(record).map(|(chain, _)| chain.iter().map(|layer| layer.desc.digest).collect()).collect()
}

#[test]
fn layers_stand_on_their_parents_in_any_order() {
    let mut index = Index::default();
    index.add(&part(&[("c", 1), ("b", 2), ("a", -1)], vec![record("x", &[0], &[])]));
    let chain: Vec<Digest> = ["a", "b", "c"].iter().map(Digest::of).collect();
    assert_eq!(digests(&index, 0), [chain]);
    assert_eq!(index.broken(), 0);
}

#[test]
fn rings_strangers_and_unknown_blobs_cost_only_themselves() {
    let mut hostile = part(
        &[
            ("ring", 1),
            ("ring2", 0),
            ("over ring", 0),
            ("stranger", 99),
            ("below", -7),
            ("good", -1),
            ("gone", -1),
        ],
        vec![
            record("a", &[0, 2, 3, 4, 6, 42, -1], &[]),
            record("b", &[5], &[&[77, -1, 0]]),
            record("self", &[5], &[&[2]]),
        ],
    );
    hostile.blobs.remove(&Digest::of("gone"));
    let mut index = Index::default();
    index.add(&hostile);
    assert!(digests(&index, 0).is_empty());
    assert_eq!(digests(&index, 1), [vec![Digest::of("good")]]);
    assert_eq!(index.over(0, 0, None, output_key(&Digest::of("b"), 0)), [1]);
    assert_eq!(index.broken(), 6 + 7 + 2);
}

#[test]
fn layers_without_diff_id_or_of_no_known_compression_are_left_out() {
    let mut odd = part(&[("a", -1), ("b", -1)], vec![record("x", &[0, 1], &[])]);
    odd.blobs.get_mut(&Digest::of("a")).unwrap().annotations.clear();
    odd.blobs.get_mut(&Digest::of("b")).unwrap().media_type = "text/plain".into();
    let mut index = Index::default();
    index.add(&odd);
    assert!(!index.has_result(0));
}

#[test]
fn a_second_document_keeps_its_own_numbers() {
    let mut index = Index::default();
    for name in ["one", "two"] {
        let records = vec![record("base", &[], &[]), record(name, &[0], &[&[0]])];
        index.add(&part(&[(name, -1)], records));
    }
    let base = output_key(&Digest::of("base"), 0);
    assert_eq!(index.roots(&base), [0, 2]);
    assert_eq!(index.over(2, 0, None, output_key(&Digest::of("two"), 0)), [3]);
    assert_eq!(digests(&index, 3), [vec![Digest::of("two")]]);
}

proptest! {
    #[test]
    fn no_document_hangs_or_panics(
        parents in proptest::collection::vec(-3i64..12, 0..10),
        results in proptest::collection::vec((-2i64..12, -2i64..12), 0..10),
    ) {
        let names: Vec<String> = (0..parents.len()).map(|n| n.to_string()).collect();
        let layers: Vec<(&str, i64)> = names.iter().map(String::as_str).zip(parents.iter().copied()).collect();
        let records = results.iter().map(|(layer, link)| record("r", &[*layer], &[&[*link]])).collect();
        let mut index = Index::default();
        index.add(&part(&layers, records));
        for ix in 0..index.len() as u32 {
            for (chain, _) in index.results(ix) {
                prop_assert!(!chain.is_empty() && chain.len() <= parents.len());
            }
        }
    }
}
