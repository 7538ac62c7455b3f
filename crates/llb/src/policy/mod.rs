//! Rules on sources: which may be used, and what is used in place of which.

mod apply;
mod selector;

use rbuild_api::moby::buildkit::v1::sourcepolicy as wire;

pub use apply::Converted;
use selector::Selector;

use crate::SourceOp;

/// How often one source may be replaced. Source: upstream's limit; a chain that is longer is a circle.
const MAX_CONVERSIONS: usize = 20;
/// More rules than anyone writes; each costs a compiled expression.
const MAX_RULES: usize = 10_000;

/// A list of rules, compiled.
///
/// Of the rules that match a source the last one that allows or denies it counts, unless one of them replaces it: then
/// all starts again with the replacement.
#[derive(Debug, Clone)]
pub struct SourcePolicy {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    /// As the user knows it.
    name: String,
    selector: Selector,
    action: Action,
}

#[derive(Debug, Clone)]
enum Action {
    Allow,
    Deny,
    Convert { identifier: Option<String>, attrs: Vec<(String, String)> },
}

/// A policy makes no sense, or denies a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The source may not be used.
    #[error("source \"{shown}\" denied by policy: {rule}")]
    Denied {
        /// Its identifier without secrets.
        shown: String,
        /// The rule that says so.
        rule: String,
    },
    /// Replacing does not end.
    #[error(
        "source \"{shown}\" was replaced {MAX_CONVERSIONS} times by the policy, last by {rule}: too many"
    )]
    Circle {
        /// What it had become.
        shown: String,
        /// The last rule that replaced it.
        rule: String,
    },
    /// A rule cannot be read.
    #[error("source policy, {rule}: {reason}")]
    Rule {
        /// Which one.
        rule: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More rules than a policy may have.
    #[error("source policy of {count} rules: at most {MAX_RULES} are allowed")]
    TooManyRules {
        /// How many there are.
        count: usize,
    },
}

impl SourcePolicy {
    /// Compiles a policy from outside. Errors: the first rule that makes no sense.
    pub fn from_wire(policy: &wire::Policy) -> Result<Self, PolicyError> {
        if policy.rules.len() > MAX_RULES {
            return Err(PolicyError::TooManyRules { count: policy.rules.len() });
        }
        let rules = policy.rules.iter().enumerate().map(|(index, rule)| Rule::from_wire(index, rule));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Lets a source through, replaces it, or denies it. `true`: it was replaced.
    pub fn evaluate(&self, source: &mut SourceOp) -> Result<bool, PolicyError> {
        let mut conversions = 0;
        while let Some(rule) = self.step(source)? {
            conversions += 1;
            if conversions > MAX_CONVERSIONS {
                return Err(PolicyError::Circle {
                    shown: shown_identifier(&source.identifier),
                    rule: rule.name.clone(),
                });
            }
        }
        Ok(conversions > 0)
    }

    /// Goes through the rules once; the rule that replaced the source, if one did.
    fn step(&self, source: &mut SourceOp) -> Result<Option<&Rule>, PolicyError> {
        let mut denied = None;
        for rule in &self.rules {
            if !rule.selector.matches(source) {
                continue;
            }
            match &rule.action {
                Action::Allow => denied = None,
                Action::Deny => denied = Some(rule),
                Action::Convert { identifier, attrs } => {
                    let to = identifier.as_ref();
                    let to = to.map(|template| rule.selector.destination(&source.identifier, template));
                    if convert(source, to, attrs) {
                        return Ok(Some(rule));
                    }
                }
            }
        }
        match denied {
            None => Ok(None),
            Some(rule) => Err(PolicyError::Denied {
                shown: shown_identifier(&source.identifier),
                rule: rule.name.clone(),
            }),
        }
    }
}

fn convert(source: &mut SourceOp, identifier: Option<String>, attrs: &[(String, String)]) -> bool {
    let mut changed = false;
    if let Some(identifier) = identifier.filter(|to| !to.is_empty() && *to != source.identifier) {
        source.identifier = identifier;
        changed = true;
    }
    for (name, value) in attrs {
        changed |= source.attrs.insert(name.clone(), value.clone()).as_ref() != Some(value);
    }
    changed
}

impl Rule {
    fn from_wire(index: usize, rule: &wire::Rule) -> Result<Self, PolicyError> {
        let action = match wire::PolicyAction::try_from(rule.action) {
            Ok(wire::PolicyAction::Allow) => "ALLOW",
            Ok(wire::PolicyAction::Deny) => "DENY",
            Ok(wire::PolicyAction::Convert) => "CONVERT",
            Err(_) => "of an unknown action",
        };
        let selector = rule.selector.clone().unwrap_or_default();
        let name = format!("rule {} ({action} {})", index + 1, shown_identifier(&selector.identifier));
        let wrong = |reason: String| PolicyError::Rule { rule: name.clone(), reason };
        let action = match wire::PolicyAction::try_from(rule.action) {
            Ok(wire::PolicyAction::Allow) => Action::Allow,
            Ok(wire::PolicyAction::Deny) => Action::Deny,
            Ok(wire::PolicyAction::Convert) => {
                let updates = rule.updates.clone();
                let updates =
                    updates.ok_or_else(|| wrong("nothing says what to use instead (updates)".into()))?;
                // Without an identifier only attributes change.
                let identifier = Some(updates.identifier).filter(|identifier| !identifier.is_empty());
                Action::Convert { identifier, attrs: updates.attrs.into_iter().collect() }
            }
            Err(_) => return Err(wrong(format!("unknown action {}", rule.action))),
        };
        let selector = Selector::from_wire(&selector).map_err(wrong)?;
        Ok(Self { name, selector, action })
    }
}

/// An identifier without what is nobody's business: queries, and credentials of addresses.
pub fn shown_identifier(identifier: &str) -> String {
    let plain = identifier.split('?').next().unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else { return plain.to_owned() };
    let host = match rest.rsplit_once('@') {
        Some((_, host)) if scheme.starts_with("http") || scheme == "git" => host,
        _ => rest,
    };
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests;
