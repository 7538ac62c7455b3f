use std::collections::BTreeMap;

use rbuild_api::moby::buildkit::v1::sourcepolicy::{
    AttrConstraint, AttrMatch, MatchType, Policy, PolicyAction, Rule, Selector, Update,
};

use super::*;
use crate::{Constraints, Graph, MarshalOptions, OpKind, State};

fn rule(action: PolicyAction, kind: MatchType, identifier: &str, to: Option<&str>) -> Rule {
    Rule {
        action: action.into(),
        selector: Some(Selector {
            identifier: identifier.into(),
            match_type: kind.into(),
            constraints: Vec::new(),
        }),
        updates: to.map(|to| Update { identifier: to.into(), attrs: BTreeMap::new() }),
    }
}

fn policy(rules: Vec<Rule>) -> SourcePolicy {
    SourcePolicy::from_wire(&Policy { version: 1, rules }).unwrap()
}

fn ask(policy: &SourcePolicy, identifier: &str) -> Result<String, PolicyError> {
    let mut source = SourceOp::new(identifier, BTreeMap::new());
    policy.evaluate(&mut source).map(|_| source.identifier)
}

#[test]
fn the_last_word_on_a_source_counts() {
    use MatchType::{Exact, Regex, Wildcard};
    let policy = policy(vec![
        rule(PolicyAction::Deny, Wildcard, "docker-image://*", None),
        rule(PolicyAction::Allow, Regex, "^docker-image://docker.io/library/", None),
        rule(PolicyAction::Deny, Exact, "docker-image://docker.io/library/bad:1", None),
    ]);
    assert!(ask(&policy, "local://context").is_ok());
    assert!(ask(&policy, "docker-image://docker.io/library/good:1").is_ok());
    let denied = |identifier| ask(&policy, identifier).unwrap_err().to_string();
    assert_eq!(
        denied("docker-image://docker.io/library/bad:1"),
        "source \"docker-image://docker.io/library/bad:1\" denied by policy: \
         rule 3 (DENY docker-image://docker.io/library/bad:1)"
    );
    assert!(denied("docker-image://example.com/x").ends_with("rule 1 (DENY docker-image://*)"));
}

#[test]
fn replacements_are_judged_again_and_take_parts_along() {
    use MatchType::{Exact, Regex, Wildcard};
    let policy = policy(vec![
        rule(
            PolicyAction::Convert,
            Wildcard,
            "docker-image://docker.io/*",
            Some("docker-image://mirror/${1}"),
        ),
        rule(PolicyAction::Convert, Regex, "^https?://([^/]+)/x$", Some("https://$1/y")),
        rule(PolicyAction::Convert, Exact, "docker-image://mirror/bad", Some("docker-image://worse")),
        rule(PolicyAction::Deny, Exact, "docker-image://worse", None),
    ]);
    assert_eq!(ask(&policy, "docker-image://docker.io/a:1").unwrap(), "docker-image://mirror/a:1");
    assert_eq!(ask(&policy, "http://host/x").unwrap(), "https://host/y");
    assert!(matches!(ask(&policy, "docker-image://docker.io/bad"), Err(PolicyError::Denied { .. })));
}

#[test]
fn circles_end_with_the_rule_that_keeps_them_up() {
    let (a, b) = ("docker-image://a", "docker-image://b");
    let policy = policy(vec![
        rule(PolicyAction::Convert, MatchType::Exact, a, Some(b)),
        rule(PolicyAction::Convert, MatchType::Exact, b, Some(a)),
    ]);
    let error = ask(&policy, a).unwrap_err();
    assert!(matches!(error, PolicyError::Circle { .. }), "{error}");
}

#[test]
fn attributes_are_conditions_and_are_replaced() {
    let mut pinned = rule(PolicyAction::Convert, MatchType::Wildcard, "https://*", Some(""));
    let constraint = |key: &str, value: &str, condition: AttrMatch| AttrConstraint {
        key: key.into(),
        value: value.into(),
        condition: condition.into(),
    };
    pinned.selector.as_mut().unwrap().constraints = vec![
        constraint("http.filename", "^a", AttrMatch::Matches),
        constraint("http.perm", "0644", AttrMatch::Equal),
        constraint("http.uid", "7", AttrMatch::Notequal),
    ];
    pinned.updates.as_mut().unwrap().attrs.insert("http.checksum".into(), "sha256:x".into());
    let policy = policy(vec![pinned]);
    let attrs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let mut source = SourceOp::new("https://h/f", attrs(&[("http.filename", "abc"), ("http.perm", "0644")]));
    assert!(policy.evaluate(&mut source).unwrap());
    assert_eq!((&*source.identifier, &*source.attrs["http.checksum"]), ("https://h/f", "sha256:x"));
    for pairs in [&[("http.filename", "b"), ("http.perm", "0644")][..], &[("http.filename", "a")]] {
        assert!(!policy.evaluate(&mut SourceOp::new("https://h/f", attrs(pairs))).unwrap());
    }
}

#[test]
fn rules_without_sense_are_named() {
    for (wrong, text) in [
        (rule(PolicyAction::Convert, MatchType::Exact, "a", None), "rule 1 (CONVERT a): nothing says"),
        (rule(PolicyAction::Deny, MatchType::Regex, "(", None), "rule 1 (DENY (): expression `(`"),
        (Rule { action: 9, ..Rule::default() }, "unknown action 9"),
    ] {
        let error = SourcePolicy::from_wire(&Policy { version: 1, rules: vec![wrong] }).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_definition_with_other_sources_keeps_its_shape() {
    let source = |name: &str| State::source(SourceOp::new(name, BTreeMap::new()), Constraints::default());
    let merged =
        State::merge(&[source("docker-image://a"), source("docker-image://b")], Constraints::default());
    let definition = merged.marshal(&MarshalOptions::default()).unwrap();
    let graph = Graph::from_definition(&definition).unwrap();
    assert_eq!(Converted::default().apply(&definition, &graph).ops, definition.ops);
    let mut converted = Converted::default();
    for vertex in graph.vertices() {
        if let OpKind::Source(source) = &vertex.op.kind
            && source.identifier == "docker-image://a"
        {
            converted.insert(vertex.digest, SourceOp::new("docker-image://b", BTreeMap::new()));
        }
    }
    let made = Graph::from_definition(&converted.apply(&definition, &graph)).unwrap();
    // Both inputs of the merge are the one source now.
    assert_eq!(made.len(), 2);
    let head = made.vertex(made.terminal().unwrap().vertex);
    assert_eq!(head.inputs[0], head.inputs[1]);
}
