//! `--source-policy-file`: rules on sources as JSON, in the form of upstream's clients.

use std::collections::BTreeMap;
use std::path::Path;

use rbuild_api::moby::buildkit::v1::sourcepolicy as wire;
use serde::{Deserialize, Deserializer};

use crate::errors::{CommandError, os_text};

/// Reads a policy. Errors: the file, or what in it is no rule.
pub(crate) fn read(path: &Path) -> Result<wire::Policy, CommandError> {
    let wrong = |why: String| CommandError::usage(format!("source policy {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(os_text(&error)))?;
    let policy = serde_json::from_slice::<Policy>(&bytes).map_err(|error| wrong(error.to_string()))?;
    let policy = wire::Policy {
        version: policy.version,
        rules: policy.rules.into_iter().map(Rule::into_wire).collect(),
    };
    // The daemon would say the same, but later.
    rbuild_llb::SourcePolicy::from_wire(&policy).map_err(|error| wrong(error.to_string()))?;
    Ok(policy)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default, deserialize_with = "action")]
    action: i32,
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    updates: Option<Update>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    identifier: String,
    #[serde(default, alias = "matchType", deserialize_with = "match_type")]
    match_type: i32,
    #[serde(default)]
    constraints: Vec<Constraint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default, deserialize_with = "condition")]
    condition: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

impl Rule {
    fn into_wire(self) -> wire::Rule {
        let constraints = self.selector.constraints.into_iter().map(|constraint| wire::AttrConstraint {
            key: constraint.key,
            value: constraint.value,
            condition: constraint.condition,
        });
        let selector = wire::Selector {
            identifier: self.selector.identifier,
            match_type: self.selector.match_type,
            constraints: constraints.collect(),
        };
        let updates =
            self.updates.map(|update| wire::Update { identifier: update.identifier, attrs: update.attrs });
        wire::Rule { action: self.action, selector: Some(selector), updates }
    }
}

/// A word of an enumeration, or its number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Name(String),
    Number(i32),
}

fn word<'de, D: Deserializer<'de>>(deserializer: D, names: &[&str]) -> Result<i32, D::Error> {
    let found = match Word::deserialize(deserializer)? {
        Word::Number(number) => usize::try_from(number).ok().filter(|number| *number < names.len()),
        Word::Name(name) => names.iter().position(|known| known.eq_ignore_ascii_case(&name)),
    };
    let wrong = || serde::de::Error::custom(format!("expected one of {}", names.join(", ")));
    found.and_then(|index| i32::try_from(index).ok()).ok_or_else(wrong)
}

fn action<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    word(deserializer, &["ALLOW", "DENY", "CONVERT"])
}

fn match_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    word(deserializer, &["WILDCARD", "EXACT", "REGEX"])
}

fn condition<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    word(deserializer, &["EQUAL", "NOTEQUAL", "MATCHES"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<wire::Policy, CommandError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn words_and_numbers_are_read_and_the_rest_is_refused() {
        let read = policy(
            r#"{"version": 1, "rules": [
                {"action": "CONVERT", "selector": {"identifier": "a", "match_type": "exact"},
                 "updates": {"identifier": "b", "attrs": {"k": "v"}}},
                {"action": 1, "selector": {"identifier": "c", "matchType": 2,
                 "constraints": [{"key": "k", "value": "v", "condition": "NOTEQUAL"}]}}]}"#,
        )
        .unwrap();
        let rules = &read.rules;
        assert_eq!((rules[0].action, rules[0].selector.as_ref().unwrap().match_type), (2, 1));
        assert_eq!(rules[0].updates.as_ref().unwrap().attrs["k"], "v");
        assert_eq!(rules[1].selector.as_ref().unwrap().constraints[0].condition, 1);
        for wrong in [
            "{",
            r#"{"rule": []}"#,
            r#"{"rules": [{"action": "FORBID"}]}"#,
            r#"{"rules": [{"action": "CONVERT", "selector": {"identifier": "a"}}]}"#,
        ] {
            let text = policy(wrong).unwrap_err().render();
            assert!(text.contains("policy.json: "), "{text}");
        }
    }
}
