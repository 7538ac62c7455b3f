use std::collections::BTreeSet;

use super::{Linter, rules};
use crate::parse::{Parsed, StageSource};
use crate::source::Lines;
use crate::text;

/// Names that mean something else behind `--from=`.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// An instruction that is continued by an empty line.
pub(crate) fn check_continuation(lint: &Linter, last_line: u32) {
    lint.report(&rules::NO_EMPTY_CONTINUATION, Lines::one(last_line), || {
        "Empty continuation line".to_owned()
    });
}

/// The name of a stage, as it is written.
pub(crate) fn check_stage_name(lint: &Linter, name: &str, lines: Lines) {
    if name.to_lowercase() != name {
        lint.report(&rules::STAGE_NAME_CASING, lines, || format!("Stage name '{name}' should be lowercase"));
    }
}

/// The keywords of a FROM, as they are written.
pub(crate) fn check_as_casing(lint: &Linter, keyword: &str, as_word: &str, lines: Lines) {
    // A keyword that is mixed itself is no measure.
    let fits = match (is_lower(keyword), is_upper(keyword)) {
        (true, _) => is_lower(as_word),
        (_, true) => is_upper(as_word),
        _ => true,
    };
    if !fits {
        lint.report(&rules::FROM_AS_CASING, lines, || {
            format!("'{as_word}' and '{keyword}' keywords' casing do not match")
        });
    }
}

/// MAINTAINER.
pub(crate) fn check_maintainer(lint: &Linter, lines: Lines) {
    lint.report(&rules::MAINTAINER_DEPRECATED, lines, || {
        "Maintainer instruction is deprecated in favor of using label".to_owned()
    });
}

/// The last comment above a FROM or ARG: it should describe one of `names`.
pub(crate) fn check_description(
    lint: &Linter,
    keyword: &str,
    names: &[&str],
    comments: &[String],
    lines: Lines,
) {
    let Some(comment) = comments.last() else { return };
    if names.is_empty() || names.iter().any(|name| describes(comment, name).is_some()) {
        return;
    }
    lint.report(&rules::INVALID_DEFINITION_DESCRIPTION, lines, || {
        let name = if let [name] = names { name } else { "<arg_key>" };
        format!("Comment for {} should follow the format: `# {name} <description>`", keyword.to_uppercase())
    });
}

/// What a comment says of `name`, if it is about it: the text behind the name.
pub(crate) fn describes<'a>(comment: &'a str, name: &str) -> Option<&'a str> {
    let rest = comment.strip_prefix(name)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix(' ') }
}

/// Names of stages among each other.
pub(crate) fn check_stage_names(lint: &Linter, stages: &[StageSource]) {
    let mut seen = BTreeSet::new();
    for from in stages.iter().map(|stage| &stage.from).filter(|from| !from.name.is_empty()) {
        let shown = || text::quote(&from.name);
        if RESERVED.contains(&from.name.as_str()) {
            lint.report(&rules::RESERVED_STAGE_NAME, from.lines, || {
                format!("Stage name should not use the same name as reserved stage {}", shown())
            });
        }
        if !seen.insert(from.name.as_str()) {
            lint.report(&rules::DUPLICATE_STAGE_NAME, from.lines, || {
                format!("Duplicate stage name {}, stage names should be unique", shown())
            });
        }
    }
}

/// All keywords of the stages should be written alike: as most of them are, in capitals when there is no majority.
pub(crate) fn check_casing(lint: &Linter, parsed: &Parsed) {
    if !lint.wants(&rules::CONSISTENT_INSTRUCTION_CASING) {
        return;
    }
    let keywords = parsed.stages.iter().flat_map(|stage| {
        let steps = stage.instructions.iter().map(|step| (keyword(&step.original), step.lines));
        std::iter::once((keyword(&stage.from.original), stage.from.lines)).chain(steps)
    });
    let lower = keywords.clone().filter(|(word, _)| is_lower(word)).count();
    let upper = keywords.clone().filter(|(word, _)| is_upper(word)).count();
    let (fits, shown): (fn(&str) -> bool, _) =
        if lower > upper { (is_lower, "lowercase") } else { (is_upper, "uppercase") };
    for (word, lines) in keywords.filter(|(word, _)| !fits(word)) {
        lint.report(&rules::CONSISTENT_INSTRUCTION_CASING, lines, || {
            format!("Command '{word}' should match the case of the command majority ({shown})")
        });
    }
}

fn keyword(original: &str) -> &str {
    original.split_whitespace().next().unwrap_or_default()
}

fn is_lower(word: &str) -> bool {
    word.to_lowercase() == word
}

fn is_upper(word: &str) -> bool {
    word.to_uppercase() == word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_about_a_name_that_it_begins_with() {
        assert_eq!(describes("base is it", "base"), Some("is it"));
        assert_eq!(describes("base", "base"), Some(""));
        for other in ["base: is", "basement x", "Base x", "", "base\tx"] {
            assert_eq!(describes(other, "base"), None, "{other}");
        }
    }
}
