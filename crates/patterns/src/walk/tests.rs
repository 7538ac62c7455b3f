use proptest::prelude::*;

use super::*;

const TREE: [(&str, bool); 9] = [
    ("a", true),
    ("a/b", true),
    ("a/b/c", false),
    ("a/d", false),
    ("e", true),
    ("e/f", true),
    ("e/f/g", false),
    ("h", false),
    ("i", true),
];

/// Walks a tree as a caller would: what isn't descended into isn't seen.
fn shown(include: &[&str], exclude: &[&str], tree: &[(&str, bool)]) -> (Vec<String>, Vec<String>) {
    let filter = WalkFilter::new(include, exclude).unwrap();
    let mut walker = filter.walker();
    let (mut shown, mut pruned) = (Vec::new(), Vec::<String>::new());
    for (path, is_dir) in tree {
        if pruned.iter().any(|dir| path.starts_with(&format!("{dir}/"))) {
            continue;
        }
        let visited = walker.visit(path, *is_dir, (*path).to_owned());
        shown.extend(visited.emit);
        if *is_dir && !visited.descend {
            pruned.push((*path).to_owned());
        }
    }
    (shown, pruned)
}

#[test]
fn without_lists_everything_is_shown() {
    let (all, pruned) = shown(&[], &[], &TREE);
    assert_eq!(all.len(), TREE.len());
    assert!(pruned.is_empty());
}

#[test]
fn parents_of_what_is_included_are_shown_before_it() {
    let (all, pruned) = shown(&["a/b/c"], &[], &TREE);
    assert_eq!(all, ["a", "a/b", "a/b/c"]);
    assert_eq!(pruned, ["e", "i"]);
}

#[test]
fn wildcards_leave_no_directory_unseen_but_empty_ones_unshown() {
    let (all, pruned) = shown(&["**/g"], &[], &TREE);
    assert_eq!(all, ["e", "e/f", "e/f/g"]);
    assert!(pruned.is_empty());
}

#[test]
fn excluded_directories_are_pruned_unless_an_exception_lies_below() {
    let (all, pruned) = shown(&[], &["a", "e", "!e/f/g"], &TREE);
    assert_eq!(all, ["e", "e/f", "e/f/g", "h", "i"]);
    assert_eq!(pruned, ["a"]);
}

#[test]
fn both_lists_hold() {
    let (all, _) = shown(&["a", "h"], &["**/c"], &TREE);
    assert_eq!(all, ["a", "a/b", "a/d", "h"]);
}

fn pattern() -> impl Strategy<Value = String> {
    (any::<bool>(), prop::collection::vec(prop_oneof!["[abefg*]", Just("**".to_owned())], 1..4))
        .prop_map(|(negated, parts)| format!("{}{}", if negated { "!" } else { "" }, parts.join("/")))
}

/// What passes both lists in a walk that prunes nothing.
fn passing(include: &[String], exclude: &[String]) -> Vec<&'static str> {
    let (included, excluded) = (PatternSet::parse(include).unwrap(), PatternSet::parse(exclude).unwrap());
    let mut above: Vec<(&str, Match, Match)> = vec![("", Match::default(), Match::default())];
    let mut passing = Vec::new();
    for (path, _) in TREE {
        while !above.last().is_some_and(|(dir, ..)| dir.is_empty() || path.starts_with(&format!("{dir}/"))) {
            above.pop();
        }
        let (_, include_above, exclude_above) = above.last().unwrap();
        let include_here = included.matches_with_parent(path, include_above);
        let exclude_here = excluded.matches_with_parent(path, exclude_above);
        if (include.is_empty() || include_here.matched()) && !exclude_here.matched() {
            passing.push(path);
        }
        above.push((path, include_here, exclude_here));
    }
    passing
}

proptest! {
    /// Pruning is an optimisation: it must not hide anything that passes, and must show nothing else but
    /// directories above such things.
    #[test]
    fn pruning_changes_nothing(include in prop::collection::vec(pattern(), 0..3), exclude in prop::collection::vec(pattern(), 0..3)) {
        let passing = passing(&include, &exclude);
        let expected: Vec<&str> = TREE
            .iter()
            .map(|(p, _)| *p)
            .filter(|p| passing.iter().any(|q| q == p || q.starts_with(&format!("{p}/"))))
            .collect();
        let include: Vec<&str> = include.iter().map(String::as_str).collect();
        let exclude: Vec<&str> = exclude.iter().map(String::as_str).collect();
        prop_assert_eq!(shown(&include, &exclude, &TREE).0, expected);
    }
}
