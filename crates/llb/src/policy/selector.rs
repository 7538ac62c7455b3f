use rbuild_api::moby::buildkit::v1::sourcepolicy as wire;
use regex::Regex;

use crate::SourceOp;

/// Which sources a rule is about.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    identifier: String,
    /// `None`: only this very identifier.
    pattern: Option<Regex>,
    constraints: Vec<Constraint>,
}

#[derive(Debug, Clone)]
enum Constraint {
    Equal(String, String),
    NotEqual(String, String),
    Matches(String, Regex),
}

impl Selector {
    pub(super) fn from_wire(selector: &wire::Selector) -> Result<Self, String> {
        let identifier = selector.identifier.clone();
        let pattern = match wire::MatchType::try_from(selector.match_type) {
            Ok(wire::MatchType::Exact) => None,
            Ok(wire::MatchType::Regex) => Some(regex(&identifier)?),
            Ok(wire::MatchType::Wildcard) => Some(regex(&wildcard(&identifier))?),
            Err(_) => return Err(format!("unknown match type {}", selector.match_type)),
        };
        let constraints = selector.constraints.iter().map(Constraint::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { identifier, pattern, constraints })
    }

    pub(super) fn matches(&self, source: &SourceOp) -> bool {
        self.constraints.iter().all(|constraint| constraint.holds(source))
            && (self.identifier == source.identifier
                || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(&source.identifier)))
    }

    /// What is used in place of an identifier that matched; `${1}` is what the first `*` or group stood for.
    pub(super) fn destination(&self, identifier: &str, template: &str) -> String {
        match &self.pattern {
            Some(pattern) => pattern.replace_all(identifier, template).into_owned(),
            None => template.to_owned(),
        }
    }
}

impl Constraint {
    fn from_wire(wire: &wire::AttrConstraint) -> Result<Self, String> {
        let (key, value) = (wire.key.clone(), wire.value.clone());
        match wire::AttrMatch::try_from(wire.condition) {
            Ok(wire::AttrMatch::Equal) => Ok(Self::Equal(key, value)),
            Ok(wire::AttrMatch::Notequal) => Ok(Self::NotEqual(key, value)),
            Ok(wire::AttrMatch::Matches) => Ok(Self::Matches(key, regex(&value)?)),
            Err(_) => Err(format!("unknown condition {}", wire.condition)),
        }
    }

    /// An attribute that is not there is like an empty one.
    fn holds(&self, source: &SourceOp) -> bool {
        let of = |key: &String| source.attrs.get(key).map_or("", String::as_str);
        match self {
            Self::Equal(key, value) => of(key) == value,
            Self::NotEqual(key, value) => of(key) != value,
            Self::Matches(key, pattern) => pattern.is_match(of(key)),
        }
    }
}

fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| format!("expression `{text}`: {error}"))
}

/// `*` stands for any text, `\` takes the meaning of what follows.
fn wildcard(text: &str) -> String {
    let mut pattern = String::from("^");
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => pattern.push_str("(.*?)"),
            '\\' => match chars.next() {
                Some(next) => pattern.push_str(&regex::escape(next.encode_utf8(&mut [0; 4]))),
                None => pattern.push_str(r"\\"),
            },
            c => pattern.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    pattern.push('$');
    pattern
}
