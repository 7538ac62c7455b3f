//! One pattern of a set.
//!
//! Upstream turns a pattern into the text of a Go regular expression, character by character, and its odd
//! corners (`\d` is a digit, `[*]` is not a star) are what users' files were written against. So this does
//! the same, and then rewrites that text for our regex engine, which reads a few things differently.

use std::fmt::Write as _;

use regex::Regex;

use crate::path::clean;
use crate::{PatternError, glob};

/// One line: what it matches, and whether it takes back.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// Cleaned, without `!`.
    pub(crate) text: String,
    /// It begins with `!`.
    pub(crate) negated: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The path itself.
    Exact,
    /// `dir/**`: all that begins with the text before `**`.
    Prefix,
    /// `**/name`: all that ends with the text after `**`.
    Suffix,
    /// Everything else.
    Regex(Box<Regex>),
}

impl Pattern {
    /// Parses a line; one that is empty after trimming is no pattern.
    pub(crate) fn parse(line: &str) -> Result<Option<Self>, PatternError> {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(trimmed);
        let (negated, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::new(line, "`!` without a pattern")),
            Some(rest) => (true, rest.to_owned()),
            None => (false, cleaned),
        };
        glob::check(&text).map_err(|err| PatternError::new(line, err.reason))?;
        let kind = Kind::of(&text).ok_or_else(|| PatternError::new(line, "cannot be understood"))?;
        Ok(Some(Self { text, negated, kind }))
    }

    /// Whether it matches the path itself, parents aside.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Kind::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
            }
            Kind::Regex(regex) => regex.is_match(path),
        }
    }

    /// The text without a `/*` or `/**` at its end. (Upstream takes both away from `a/*/**`, and then prunes
    /// directories in which the pattern would have matched.)
    pub(crate) fn without_trailing_glob(&self) -> &str {
        let text = self.text.strip_suffix("/**").or_else(|| self.text.strip_suffix("/*"));
        text.unwrap_or(&self.text)
    }
}

impl Kind {
    fn of(text: &str) -> Option<Self> {
        match compile(text) {
            (Shape::Exact, _) => Some(Self::Exact),
            (Shape::Prefix, _) => Some(Self::Prefix),
            (Shape::Suffix, _) => Some(Self::Suffix),
            (Shape::Regex, go) => Some(Self::Regex(Box::new(Regex::new(&translate(&go)?).ok()?))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Exact,
    Prefix,
    Suffix,
    Regex,
}

/// The shape, and the Go regular expression that goes with [`Shape::Regex`].
fn compile(text: &str) -> (Shape, String) {
    let mut shape = Shape::Exact;
    let mut go = "^".to_owned();
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    go.push_str("(.*/)?");
                    shape = Shape::Regex;
                } else if shape == Shape::Exact {
                    shape = Shape::Prefix;
                } else {
                    go.push_str(".*");
                    shape = Shape::Regex;
                }
                if first {
                    shape = Shape::Suffix;
                }
            }
            '*' => {
                go.push_str("[^/]*");
                shape = Shape::Regex;
            }
            '?' => {
                go.push_str("[^/]");
                shape = Shape::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => go.extend(['\\', c]),
            '\\' => {
                go.push('\\');
                if let Some(next) = chars.next() {
                    go.push(next);
                    shape = Shape::Regex;
                }
            }
            '[' | ']' => {
                go.push(c);
                shape = Shape::Regex;
            }
            _ => go.push(c),
        }
        first = false;
    }
    go.push('$');
    (shape, go)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Rewrites a Go regular expression for our engine: classes spelt out, `\d` and friends ASCII only.
fn translate(go: &str) -> Option<String> {
    let mut regex = String::with_capacity(go.len());
    let mut chars = go.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => translate_escape(chars.next()?, &mut regex, false),
            '[' => translate_class(&mut chars, &mut regex)?,
            _ => regex.push(c),
        }
    }
    Some(regex)
}

fn translate_escape(c: char, regex: &mut String, in_class: bool) {
    match c {
        'd' => regex.push_str("[0-9]"),
        'D' => regex.push_str("[^0-9]"),
        'w' => regex.push_str("[0-9A-Za-z_]"),
        'W' => regex.push_str("[^0-9A-Za-z_]"),
        's' => regex.push_str("[\\t\\n\\x0C\\r ]"),
        'S' => regex.push_str("[^\\t\\n\\x0C\\r ]"),
        'b' if !in_class => regex.push_str("(?-u:\\b)"),
        _ if c.is_ascii_alphanumeric() => regex.extend(['\\', c]),
        _ => push_literal(c, regex),
    }
}

fn translate_class(chars: &mut Chars<'_>, regex: &mut String) -> Option<()> {
    regex.push('[');
    if chars.next_if_eq(&'^').is_some() {
        regex.push('^');
    }
    let mut first = true;
    loop {
        match chars.next()? {
            ']' if !first => break,
            '[' if chars.peek() == Some(&':') => translate_named(chars, regex),
            '\\' => {
                let c = chars.next()?;
                translate_escape(c, regex, true);
            }
            // Upstream's engine takes a dash for a range only between two characters, as ours does.
            '-' if !first && chars.peek().is_some_and(|next| *next != ']') => regex.push('-'),
            c => push_literal(c, regex),
        }
        first = false;
    }
    regex.push(']');
    Some(())
}

/// `[:alpha:]` within a class, or the literal `[` if it is none.
fn translate_named(chars: &mut Chars<'_>, regex: &mut String) {
    let ahead: String = chars.clone().take(12).collect();
    match ahead[1..].split_once(":]") {
        Some((name, _)) if name.chars().all(|c| c.is_ascii_lowercase() || c == '^') => {
            write!(regex, "[:{name}:]").ok();
            for _ in 0..name.len() + 3 {
                chars.next();
            }
        }
        _ => push_literal('[', regex),
    }
}

fn push_literal(c: char, regex: &mut String) {
    write!(regex, "\\x{{{:X}}}", u32::from(c)).ok();
}
