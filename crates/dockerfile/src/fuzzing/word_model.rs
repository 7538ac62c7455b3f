//! Word expansion, written a second time and the plain way: no budgets, no regular expressions, and words are
//! made from marked characters after all is expanded. What the two disagree on is a bug of one of them.

use std::collections::BTreeMap;

use super::glob_model;

/// How texts are read; the five ways that the crate has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) escape: char,
    pub(super) keep_quotes: bool,
    pub(super) keep_escapes: bool,
    pub(super) quotes_are_text: bool,
    pub(super) keep_unset: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The text is wrong.
    Wrong,
    /// The model would need too long.
    TooSlow,
}

/// A piece of what a text expands to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// White space here ends a word.
    Splits(char),
    /// Part of a word, whatever it is.
    Stays(char),
    /// A word begins here even if nothing follows: quotes stood here.
    Begins,
}

/// Longest value that patterns are tried on: the model's cost is cubic.
const MAX_MATCHED: usize = 300;
/// The model copies freely.
const MAX_PIECES: usize = 1 << 20;
const MAX_DEPTH: usize = 100;

pub(super) struct Model<'a> {
    pub(super) rules: Rules,
    pub(super) variables: &'a BTreeMap<String, String>,
    text: Vec<char>,
    at: usize,
    depth: usize,
    made: usize,
}

type Answer<T> = Result<T, Failure>;

/// The text and the words that `text` expands to.
pub(super) fn expand(
    text: &str,
    rules: Rules,
    variables: &BTreeMap<String, String>,
) -> Answer<(String, Vec<String>)> {
    let mut model = Model { rules, variables, text: text.chars().collect(), at: 0, depth: 0, made: 0 };
    let pieces = model.pieces(None, false)?;
    Ok((text_of(&pieces), words_of(&pieces)))
}

fn text_of(pieces: &[Piece]) -> String {
    let chars = pieces.iter().filter_map(|piece| match piece {
        Piece::Splits(c) | Piece::Stays(c) => Some(*c),
        Piece::Begins => None,
    });
    chars.collect()
}

fn words_of(pieces: &[Piece]) -> Vec<String> {
    let runs = pieces.split(|piece| matches!(piece, Piece::Splits(c) if c.is_whitespace()));
    runs.filter(|run| !run.is_empty()).map(text_of).collect()
}

impl Model<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += 1;
        c
    }

    fn made(&mut self, count: usize) -> Answer<()> {
        self.made += count;
        if self.made > MAX_PIECES { Err(Failure::TooSlow) } else { Ok(()) }
    }

    fn pieces(&mut self, stop: Option<char>, keep_escapes: bool) -> Answer<Vec<Piece>> {
        let mut pieces = Vec::new();
        loop {
            let Some(c) = self.peek() else {
                return if stop.is_none() { Ok(pieces) } else { Err(Failure::Wrong) };
            };
            if stop == Some(c) {
                self.at += 1;
                return Ok(pieces);
            }
            if c == '$' {
                let value = self.variable()?;
                self.made(value.len())?;
                pieces.extend(value.into_iter().map(Piece::Splits));
            } else if (c == '"' || c == '\'') && !self.rules.quotes_are_text {
                self.at += 1;
                let inner = if c == '"' { self.double()? } else { self.single()? };
                pieces.push(Piece::Begins);
                let mark = self.rules.keep_quotes.then_some(c);
                self.made(inner.len())?;
                pieces.extend(mark.into_iter().chain(inner).chain(mark).map(Piece::Stays));
            } else if c == self.rules.escape {
                self.at += 1;
                if keep_escapes || self.rules.keep_escapes {
                    pieces.push(Piece::Stays(c));
                }
                pieces.extend(self.take().map(Piece::Stays));
            } else {
                self.at += 1;
                pieces.push(Piece::Splits(c));
            }
        }
    }

    fn single(&mut self) -> Answer<Vec<char>> {
        let end = self.text[self.at..].iter().position(|c| *c == '\'').ok_or(Failure::Wrong)?;
        let inner = self.text[self.at..self.at + end].to_vec();
        self.at += end + 1;
        Ok(inner)
    }

    fn double(&mut self) -> Answer<Vec<char>> {
        let mut inner = Vec::new();
        loop {
            match self.peek().ok_or(Failure::Wrong)? {
                '"' => {
                    self.at += 1;
                    return Ok(inner);
                }
                '$' => {
                    let value = self.variable()?;
                    self.made(value.len())?;
                    inner.extend(value);
                }
                c if c == self.rules.escape => {
                    self.at += 1;
                    let escaped = self.take().ok_or(Failure::Wrong)?;
                    let dropped =
                        ['"', '$', self.rules.escape].contains(&escaped) && !self.rules.keep_escapes;
                    inner.extend((!dropped).then_some(c));
                    inner.push(escaped);
                }
                c => {
                    self.at += 1;
                    inner.push(c);
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let rest = &self.text[self.at.min(self.text.len())..];
        let count = match rest.first() {
            Some(c) if c.is_ascii_digit() => rest.iter().take_while(|c| c.is_ascii_digit()).count(),
            Some(c) if "@*#?-$!".contains(*c) => 1,
            Some(c) if c.is_alphabetic() || *c == '_' => {
                rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count()
            }
            _ => 0,
        };
        let name = rest[..count].iter().collect();
        self.at += count;
        name
    }

    /// What stands at a `$`.
    fn variable(&mut self) -> Answer<Vec<char>> {
        let start = self.at;
        self.at += 1;
        if self.peek() == Some('{') {
            self.at += 1;
            if matches!(self.peek(), None | Some('{' | '}' | ':')) || self.depth == MAX_DEPTH {
                return Err(Failure::Wrong);
            }
            self.depth += 1;
            let value = self.braced();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok(vec!['$']);
        }
        Ok(match self.variables.get(&name) {
            Some(value) => value.chars().collect(),
            None if self.rules.keep_unset => self.text[start..self.at].to_vec(),
            None => Vec::new(),
        })
    }

    fn operand(&mut self, stop: char, keep_escapes: bool) -> Answer<Vec<char>> {
        Ok(text_of(&self.pieces(Some(stop), keep_escapes)?).chars().collect())
    }

    fn braced(&mut self) -> Answer<Vec<char>> {
        let name = self.name();
        let value = self.variables.get(&name).map(|value| value.chars().collect::<Vec<char>>());
        let mut sign = self.take();
        let colon = sign == Some(':');
        if colon {
            sign = self.take();
        }
        let sign = sign.ok_or(Failure::Wrong)?;
        match (sign, colon) {
            ('}', false) => Ok(value.unwrap_or_else(|| self.written(&name, "", &[]))),
            ('-' | '+' | '?', _) => {
                let word = self.operand('}', false)?;
                let modifier = if colon { format!(":{sign}") } else { sign.to_string() };
                let usable = value.as_ref().is_some_and(|value| !colon || !value.is_empty());
                match sign {
                    _ if value.is_none() && self.rules.keep_unset => {
                        Ok(self.written(&name, &modifier, &word))
                    }
                    '-' if !usable => Ok(word),
                    '+' => Ok(if usable { word } else { Vec::new() }),
                    '?' if !usable => Err(Failure::Wrong),
                    _ => Ok(value.unwrap_or_default()),
                }
            }
            ('#' | '%', false) => {
                let longest = self.peek() == Some(sign);
                self.at += usize::from(longest);
                let pattern = self.operand('}', true)?;
                let modifier = String::from(sign).repeat(1 + usize::from(longest));
                let Some(value) = value else { return Ok(self.written(&name, &modifier, &pattern)) };
                let parts = self.pattern(&pattern, &value)?;
                let cut = if sign == '#' { glob_model::cut_prefix } else { glob_model::cut_suffix };
                Ok(cut(&parts, &value, longest))
            }
            ('/', false) => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let pattern = self.operand('/', true)?;
                let replacement = self.operand('}', true)?;
                if value.is_none() && self.rules.keep_unset {
                    let both = [&pattern[..], &['/'], &replacement].concat();
                    return Ok(self.written(&name, if all { "//" } else { "/" }, &both));
                }
                let value = value.unwrap_or_default();
                let parts = self.pattern(&pattern, &value)?;
                self.made(replacement.len() * (value.len() + 1))?;
                Ok(glob_model::replace(&parts, &value, &replacement, all))
            }
            _ => Err(Failure::Wrong),
        }
    }

    /// A substitution of a variable that is not set.
    fn written(&self, name: &str, modifier: &str, operand: &[char]) -> Vec<char> {
        if !self.rules.keep_unset {
            return Vec::new();
        }
        let operand: String = operand.iter().collect();
        format!("${{{name}{modifier}{operand}}}").chars().collect()
    }

    fn pattern(&self, pattern: &[char], value: &[char]) -> Answer<Vec<glob_model::Part>> {
        if value.len() > MAX_MATCHED || pattern.len() > MAX_MATCHED {
            return Err(Failure::TooSlow);
        }
        glob_model::parse(pattern, self.rules.escape).ok_or(Failure::Wrong)
    }
}
