use std::collections::{BTreeMap, BTreeSet};

use super::rules::Rule;
use crate::{CompileError, text};

/// The request's word on checks; it stands instead of the file's.
const OPTION: &str = "build-arg:BUILDKIT_DOCKERFILE_CHECK";

/// Which checks are made and what follows from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LintConfig {
    skip: BTreeSet<String>,
    skip_all: bool,
    experimental: BTreeSet<String>,
    experimental_all: bool,
    /// A finding fails the build.
    pub(super) error: bool,
}

impl LintConfig {
    /// What the request or else the file's `# check=` says.
    pub(crate) fn of(
        options: &BTreeMap<String, String>,
        directive: Option<&str>,
    ) -> Result<Self, CompileError> {
        let (given, whence) = match (options.get(OPTION), directive) {
            (Some(text), _) => (text.as_str(), OPTION),
            (None, Some(text)) => (text, "check options"),
            (None, None) => return Ok(Self::default()),
        };
        Self::parse(given)
            .map_err(|message| CompileError::new(format!("failed to parse {whence}: {message}")))
    }

    /// `skip=A,B;experimental=C;error=true`; `all` stands for every rule. Nothing is trimmed and names are compared
    /// as they are: upstream does neither.
    fn parse(given: &str) -> Result<Self, String> {
        let mut config = Self::default();
        if given.is_empty() {
            return Ok(config);
        }
        for option in given.split(';') {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, value),
                None => return Err(invalid(option)),
            };
            match key {
                "skip" if value == "all" => config.skip_all = true,
                "skip" => config.skip = names(value),
                "experimental" if value == "all" => config.experimental_all = true,
                "experimental" => config.experimental = names(value),
                "error" => {
                    config.error = flag(value).ok_or_else(|| {
                        let (option, value) = (text::quote(option), text::quote(value));
                        format!(
                            "failed to parse check option {option}: strconv.ParseBool: parsing {value}: invalid syntax"
                        )
                    })?;
                }
                _ => return Err(invalid(key)),
            }
        }
        Ok(config)
    }

    /// Whether a rule's findings are told.
    pub(super) fn wants(&self, rule: &Rule) -> bool {
        if rule.experimental {
            return self.experimental_all || self.experimental.contains(rule.id);
        }
        !self.skip_all && !self.skip.contains(rule.id)
    }
}

fn invalid(option: &str) -> String {
    format!("invalid check option {}", text::quote(option))
}

fn names(list: &str) -> BTreeSet<String> {
    list.split(',').map(str::to_owned).collect()
}

/// A truth value as Go reads it.
fn flag(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    #[test]
    fn options_choose_rules_by_name_or_all() {
        let config = LintConfig::parse("skip=StageNameCasing,FromAsCasing;error=1").unwrap();
        assert!(config.error);
        assert!(!config.wants(&rules::STAGE_NAME_CASING) && !config.wants(&rules::FROM_AS_CASING));
        assert!(config.wants(&rules::UNDEFINED_VAR));
        assert!(!config.wants(&rules::INVALID_DEFINITION_DESCRIPTION));
        let config = LintConfig::parse("skip=all;experimental=InvalidDefinitionDescription").unwrap();
        assert!(!config.wants(&rules::UNDEFINED_VAR));
        assert!(config.wants(&rules::INVALID_DEFINITION_DESCRIPTION));
    }

    #[test]
    fn unknown_options_are_errors_and_unknown_rules_are_not() {
        for (text, wrong) in [("x=y", "\"x\""), ("skip", "\"skip\""), ("error=true;", "\"\"")] {
            assert_eq!(LintConfig::parse(text).unwrap_err(), format!("invalid check option {wrong}"));
        }
        assert!(LintConfig::parse("error=maybe").unwrap_err().contains("\"error=maybe\""));
        LintConfig::parse("skip=Nothing").unwrap();
    }

    #[test]
    fn the_request_stands_instead_of_the_file() {
        let options = BTreeMap::from([(OPTION.to_owned(), String::new())]);
        assert_eq!(LintConfig::of(&options, Some("error=true")).unwrap(), LintConfig::default());
        assert!(LintConfig::of(&BTreeMap::new(), Some("error=true")).unwrap().error);
    }
}
