use regex::{NoExpand, Regex, RegexBuilder};

/// A shell pattern: `*` any text, `?` one character, the escape character before either (or itself) is
/// literal. Everything else stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Literal(char),
    One,
    Many,
}

/// Which end of a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affix {
    Prefix,
    Suffix,
}

/// Compiled patterns are bounded: they come from users.
const MAX_REGEX_BYTES: usize = 4 << 20;

impl Pattern {
    /// Parses a pattern. Errors: an escape before an ordinary character.
    pub(crate) fn parse(text: &str, escape: char) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Many,
                '?' => Part::One,
                c if c == escape => match chars.next() {
                    Some(literal @ ('*' | '?' | '\\' | '/' | '}')) => Part::Literal(literal),
                    Some(literal) if literal == escape => Part::Literal(literal),
                    Some(other) => {
                        return Err(format!(
                            "invalid pattern ({text}) in substitution: invalid escape '{escape}{other}'"
                        ));
                    }
                    None => Part::Literal(escape),
                },
                c => Part::Literal(c),
            });
        }
        Ok(Self { parts })
    }

    fn regex(&self, greedy: bool, prefix: &str, suffix: &str, reversed: bool) -> Result<Regex, String> {
        let mut source = String::from(prefix);
        let mut push = |part: &Part| match part {
            Part::Literal(c) => source.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            Part::One => source.push('.'),
            Part::Many => source.push_str(if greedy { ".*" } else { ".*?" }),
        };
        if reversed {
            self.parts.iter().rev().for_each(&mut push);
        } else {
            self.parts.iter().for_each(&mut push);
        }
        source.push_str(suffix);
        let regex = RegexBuilder::new(&source).size_limit(MAX_REGEX_BYTES).build();
        regex.map_err(|_| "pattern is too large".to_owned())
    }

    /// Cuts what matches off one end: the shortest match, or the longest if `greedy`.
    pub(crate) fn trim(&self, value: &str, affix: Affix, greedy: bool) -> Result<String, String> {
        match affix {
            Affix::Prefix => {
                Ok(self.regex(greedy, "^", "", false)?.replace(value, NoExpand("")).into_owned())
            }
            Affix::Suffix => {
                // A regex prefers an early start; reversed, the shortest end is the shortest start.
                let reversed: String = value.chars().rev().collect();
                let cut = self.regex(greedy, "^", "", true)?.replace(&reversed, NoExpand("")).into_owned();
                Ok(cut.chars().rev().collect())
            }
        }
    }

    /// Replaces the first match, or all. `charge` is told how long the result may be before it is made.
    pub(crate) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        charge: impl FnOnce(usize) -> Result<(), super::ExpandError>,
    ) -> Result<String, super::ExpandError> {
        let regex = self.regex(true, "", "", false)?;
        let limit = usize::from(!all);
        let matches = if all { regex.find_iter(value).count() } else { 1 };
        charge(matches.saturating_mul(replacement.len()).saturating_add(value.len()))?;
        Ok(regex.replacen(value, limit, NoExpand(replacement)).into_owned())
    }
}
