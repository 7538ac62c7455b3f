//! Patterns the slow way: tokens, and the set of places that a match may have reached. It has no answer for
//! what only regular expressions know (`\b`, `\pL`, stars within classes), nor for globs that do not look back.

use crate::path::parents;

#[derive(Debug, Clone)]
enum Token {
    Literal(char),
    /// One character but `/`.
    One,
    /// Any characters but `/`.
    Star,
    /// Nothing, or any characters with `/` at their end.
    Deep,
    /// Any characters.
    Rest,
    /// Nothing, at the beginning only.
    Begin,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether a list matches a path: the last line that matches it, or a directory above it, decides.
pub(super) fn set_matches(lines: &[String], path: &str) -> Option<bool> {
    let mut matched = false;
    for line in lines {
        let line = crate::path::clean(line.trim());
        let (negated, pattern) = line.strip_prefix('!').map_or((false, &*line), |rest| (true, rest));
        let mut hit = false;
        for path in parents(path).chain([path]) {
            hit |= pattern_matches(pattern, path)?;
        }
        if hit {
            matched = !negated;
        }
    }
    Some(matched)
}

fn is_plain(text: &str) -> bool {
    !text.contains(['*', '?', '[', ']', '\\'])
}

/// A line of a list. Three shapes are compared as texts, not as patterns.
fn pattern_matches(pattern: &str, path: &str) -> Option<bool> {
    if is_plain(pattern) {
        return Some(pattern == path);
    }
    if let Some(end) = pattern.strip_prefix("**").filter(|end| is_plain(end)) {
        return Some(path.ends_with(end) || end.strip_prefix('/') == Some(path));
    }
    if let Some(start) = pattern.strip_suffix("**").filter(|start| is_plain(start)) {
        return Some(path.starts_with(start));
    }
    Some(reaches_end(&tokens(pattern, true)?, path))
}

/// One path against one glob, for ASCII.
pub(super) fn glob_matches(pattern: &str, path: &str) -> Option<bool> {
    if !pattern.is_ascii() || !path.is_ascii() {
        return None;
    }
    let tokens = tokens(pattern, false)?;
    // Go's globs never reconsider where a star ended. All that makes a difference is a class that takes `/`.
    let crosses = |token: &Token| matches!(token, Token::Class { .. }) && step(token, '/');
    (!tokens.iter().any(crosses)).then(|| reaches_end(&tokens, path))
}

/// `deep`: two stars cross directories, and `^` is an anchor, as in lists; in globs they are not and do not.
fn tokens(pattern: &str, deep: bool) -> Option<Vec<Token>> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        at += 1;
        tokens.push(match c {
            '*' if deep && chars.get(at) == Some(&'*') => {
                at += 1;
                at += usize::from(chars.get(at) == Some(&'/'));
                if at == chars.len() { Token::Rest } else { Token::Deep }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '^' if deep => Token::Begin,
            '[' => class(&chars, &mut at, deep)?,
            '\\' => escaped(&chars, &mut at, deep)?,
            c => Token::Literal(*c),
        });
    }
    Some(tokens)
}

fn escaped(chars: &[char], at: &mut usize, deep: bool) -> Option<Token> {
    let c = *chars.get(*at)?;
    *at += 1;
    let class = |negated, ranges: &[(char, char)]| Some(Token::Class { negated, ranges: ranges.to_vec() });
    let word = [('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')];
    let space = [('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
    match c {
        _ if !deep => Some(Token::Literal(c)),
        'd' | 'D' => class(c == 'D', &[('0', '9')]),
        'w' | 'W' => class(c == 'W', &word),
        's' | 'S' => class(c == 'S', &space),
        c if c.is_ascii_alphanumeric() => None,
        c => Some(Token::Literal(c)),
    }
}

/// A class as globs have it; only those that regular expressions read alike.
fn class(chars: &[char], at: &mut usize, deep: bool) -> Option<Token> {
    let negated = chars.get(*at) == Some(&'^');
    *at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.get(*at) == Some(&']') {
            *at += 1;
            return Some(Token::Class { negated, ranges });
        }
        let low = class_char(chars, at, deep)?;
        let mut high = low;
        if chars.get(*at) == Some(&'-') {
            *at += 1;
            high = class_char(chars, at, deep)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(chars: &[char], at: &mut usize, deep: bool) -> Option<char> {
    let c = *chars.get(*at)?;
    *at += 1;
    match c {
        '*' | '?' | '[' if deep => None,
        '\\' => {
            let c = *chars.get(*at)?;
            *at += 1;
            (!deep || !c.is_ascii_alphanumeric()).then_some(c)
        }
        c => Some(c),
    }
}

fn step(token: &Token, c: char) -> bool {
    match token {
        Token::Literal(literal) => *literal == c,
        Token::One | Token::Star => c != '/',
        Token::Deep | Token::Rest => c != '\n',
        Token::Begin => false,
        Token::Class { negated, ranges } => {
            ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
        }
    }
}

fn reaches_end(tokens: &[Token], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut next = vec![false; path.len() + 1];
        // Places within `Deep`, where a slash is still to come.
        let mut inside = false;
        for at in 0..=path.len() {
            match token {
                Token::Begin => next[at] = reached[at] && at == 0,
                Token::Literal(_) | Token::One | Token::Class { .. } => {
                    next[at] |= at > 0 && reached[at - 1] && step(token, path[at - 1]);
                }
                Token::Star | Token::Rest => {
                    next[at] = reached[at] || at > 0 && next[at - 1] && step(token, path[at - 1]);
                }
                Token::Deep => {
                    next[at] = reached[at] || inside && path[at - 1] == '/';
                    inside = reached[at] || inside && step(token, path[at - 1]);
                }
            }
        }
        reached = next;
    }
    reached[path.len()]
}
