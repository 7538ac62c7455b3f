use std::collections::BTreeSet;

use super::pattern::{Affix, Pattern};
use super::{Budget, ExpandError, Unset, Variables};

/// `${a:-${b:-…}}` may nest this deep: the parser recurses.
const MAX_DEPTH: u32 = 100;
/// Values may multiply (`${a//x/$b}`, ENV after ENV); what one text costs is counted at every copy, so that
/// no form of expansion gets past the limit. Large enough for the largest document in the largest file.
const MAX_EXPANDED_BYTES: usize = 16 << 20;

/// How texts are read: which character escapes, and what is kept as it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexer {
    escape: char,
    /// Quotes stay.
    raw_quotes: bool,
    /// Escape characters stay.
    raw_escapes: bool,
    /// Quotes mean nothing.
    no_quotes: bool,
    /// Variables that are not set stay as they are written.
    skip_unset: bool,
}

/// An expanded text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expansion {
    /// The text.
    pub(crate) text: String,
    /// The same as words, if these were asked for; quoted white space does not split.
    pub(crate) words: Vec<String>,
    /// Variables that were used but are not set.
    pub(crate) unset: BTreeSet<String>,
}

impl Lexer {
    /// For values: quotes and escapes are resolved.
    pub(crate) fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, no_quotes: false, skip_unset: false }
    }

    /// For finding heredocs: all stays as it is written.
    pub(crate) fn raw(escape: char) -> Self {
        Self { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Self::new(escape) }
    }

    /// For shown commands: quotes and unknown variables stay.
    pub(crate) fn shown_command(escape: char) -> Self {
        Self { raw_quotes: true, skip_unset: true, ..Self::new(escape) }
    }

    /// For documents: quotes are text.
    pub(crate) fn document(escape: char) -> Self {
        Self { no_quotes: true, ..Self::new(escape) }
    }

    /// For names of heredocs: unknown variables stay.
    pub(crate) fn heredoc_name() -> Self {
        Self { skip_unset: true, ..Self::new('\\') }
    }

    /// Words without any variable.
    pub(crate) fn words(self, text: &str) -> Result<Vec<String>, ExpandError> {
        self.expand_words(text, &Unset, &Budget::default())
    }

    /// Expands variables and resolves quotes. Errors: a text that says what is wrong, the word quoted.
    pub(crate) fn expand(
        self,
        text: &str,
        variables: &dyn Variables,
        budget: &Budget,
    ) -> Result<Expansion, ExpandError> {
        self.read(text, variables, budget, false)
    }

    /// The same, split into words.
    pub(crate) fn expand_words(
        self,
        text: &str,
        variables: &dyn Variables,
        budget: &Budget,
    ) -> Result<Vec<String>, ExpandError> {
        self.read(text, variables, budget, true).map(|expansion| expansion.words)
    }

    fn read(
        self,
        text: &str,
        variables: &dyn Variables,
        budget: &Budget,
        split: bool,
    ) -> Result<Expansion, ExpandError> {
        let mut cursor = Cursor {
            lexer: self,
            chars: text.chars().collect(),
            at: 0,
            depth: 0,
            variables,
            unset: BTreeSet::new(),
            split,
            spent: 0,
            budget,
        };
        let (text_out, words) = cursor.until(None, false).map_err(|error| error.of(text))?;
        Ok(Expansion { text: text_out, words, unset: cursor.unset })
    }
}

struct Cursor<'a> {
    lexer: Lexer,
    chars: Vec<char>,
    at: usize,
    depth: u32,
    variables: &'a dyn Variables,
    unset: BTreeSet<String>,
    /// Words are wanted.
    split: bool,
    spent: usize,
    budget: &'a Budget,
}

/// Splits while text is added.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
    in_word: bool,
}

impl Words {
    /// A character that splits if it is white space.
    fn add(&mut self, c: char) {
        if c.is_whitespace() {
            self.end();
        } else {
            self.add_raw(c);
        }
    }
    fn add_raw(&mut self, c: char) {
        self.word.push(c);
        self.in_word = true;
    }
    fn end(&mut self) {
        if std::mem::take(&mut self.in_word) {
            self.done.push(std::mem::take(&mut self.word));
        }
    }
    fn finish(mut self) -> Vec<String> {
        self.end();
        self.done
    }
}

impl Cursor<'_> {
    /// Counts bytes that are copied. Errors: the text costs too much, or all texts together do.
    fn charge(&mut self, bytes: usize) -> Result<(), ExpandError> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > MAX_EXPANDED_BYTES {
            return Err(ExpandError::text(format!(
                "the text expands to more than {MAX_EXPANDED_BYTES} bytes"
            )));
        }
        Ok(self.budget.spend(bytes)?)
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    /// Reads up to `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), ExpandError> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.at += 1;
                return Ok((text, words.finish()));
            }
            match c {
                '\'' | '"' if !self.lexer.no_quotes => {
                    let part = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    self.charge(part.len())?;
                    if self.split {
                        words.in_word = true;
                        words.word.push_str(&part);
                    }
                    text.push_str(&part);
                }
                '$' => {
                    let part = self.dollar()?;
                    self.charge(part.len())?;
                    if self.split {
                        // Words that are few bytes each cost more than their text.
                        self.charge(part.split_whitespace().count() * size_of::<String>())?;
                        part.chars().for_each(|c| words.add(c));
                    }
                    text.push_str(&part);
                }
                _ => self.plain(raw_escapes, &mut text, &mut words)?,
            }
        }
        match stop {
            Some(stop) => Err(ExpandError::text(format!(
                "unexpected end of statement while looking for matching {stop}"
            ))),
            None => Ok((text, words.finish())),
        }
    }

    fn plain(&mut self, raw_escapes: bool, text: &mut String, words: &mut Words) -> Result<(), ExpandError> {
        let Some(c) = self.next() else { return Ok(()) };
        self.charge(c.len_utf8())?;
        if c != self.lexer.escape {
            if self.split {
                if c.is_whitespace() && words.in_word {
                    self.charge(size_of::<String>())?;
                }
                words.add(c);
            }
            text.push(c);
            return Ok(());
        }
        let kept = (self.lexer.raw_escapes || raw_escapes).then_some(c);
        for c in kept.into_iter().chain(self.next()) {
            self.charge(c.len_utf8())?;
            if self.split {
                words.add_raw(c);
            }
            text.push(c);
        }
        Ok(())
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        let quote = self.next();
        text.extend(quote.filter(|_| self.lexer.raw_quotes));
        loop {
            match self.next() {
                None => {
                    return Err(ExpandError::text(
                        "unexpected end of statement while looking for matching single-quote",
                    ));
                }
                Some('\'') => break,
                Some(c) => text.push(c),
            }
        }
        text.extend(quote.filter(|_| self.lexer.raw_quotes));
        Ok(text)
    }

    /// Variables are expanded; the escape character only escapes `"`, `$` and itself.
    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        let quote = self.next();
        text.extend(quote.filter(|_| self.lexer.raw_quotes));
        loop {
            match self.peek() {
                None => {
                    return Err(ExpandError::text(
                        "unexpected end of statement while looking for matching double-quote",
                    ));
                }
                Some('"') => {
                    self.at += 1;
                    break;
                }
                Some('$') => {
                    let part = self.dollar()?;
                    self.charge(part.len())?;
                    text.push_str(&part);
                }
                Some(c) => {
                    self.at += 1;
                    if c != self.lexer.escape {
                        text.push(c);
                        continue;
                    }
                    let Some(escaped) = self.next() else {
                        return Err(ExpandError::text(
                            "unexpected end of statement while looking for matching double-quote",
                        ));
                    };
                    let special = escaped == '"' || escaped == '$' || escaped == self.lexer.escape;
                    if !special || self.lexer.raw_escapes {
                        text.push(c);
                    }
                    text.push(escaped);
                }
            }
        }
        text.extend(quote.filter(|_| self.lexer.raw_quotes));
        Ok(text)
    }

    /// `$name`, `${name}`, `${name<modifier>}`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.lookup(&name)? {
                Some(value) => value,
                None if self.lexer.skip_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err(ExpandError::text("syntax error: missing '}'")),
            Some('{' | '}' | ':') => return Err(ExpandError::text("syntax error: bad substitution")),
            Some(_) => {}
        }
        if self.depth >= MAX_DEPTH {
            return Err(ExpandError::text(format!("substitutions are nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = self.braced();
        self.depth -= 1;
        result
    }

    fn braced(&mut self) -> Result<String, ExpandError> {
        let name = self.name();
        let mut modifier = String::new();
        let mut c = self.next();
        modifier.extend(c);
        let colon = c == Some(':');
        if colon {
            c = self.next();
            modifier.extend(c);
        }
        match c {
            Some('}') if !colon => Ok(match self.lookup(&name)? {
                Some(value) => value,
                None if self.lexer.skip_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(kind @ ('-' | '+' | '?')) => self.default_or_error(&name, &modifier, kind, colon),
            Some(kind @ ('#' | '%')) if !colon => self.trim(&name, kind),
            Some('/') if !colon => self.replace(&name),
            None => Err(ExpandError::text("syntax error: missing '}'")),
            Some(_) => {
                // Upstream reads the variable first, so that it is warned of, but only behind a colon.
                if colon {
                    self.lookup(&name)?;
                }
                Err(ExpandError::text(format!("unsupported modifier ({modifier}) in substitution")))
            }
        }
    }

    /// The rest of a substitution up to `stop`.
    fn operand(&mut self, stop: char, raw_escapes: bool) -> Result<String, ExpandError> {
        let result = self.until(Some(stop), raw_escapes).map(|(text, _)| text);
        match result {
            Err(_) if self.peek().is_none() && stop == '}' => {
                Err(ExpandError::text("syntax error: missing '}'"))
            }
            Err(_) if self.peek().is_none() && stop == '/' => {
                Err(ExpandError::text("syntax error: missing '/' in ${}"))
            }
            other => other,
        }
    }

    fn default_or_error(
        &mut self,
        name: &str,
        modifier: &str,
        kind: char,
        colon: bool,
    ) -> Result<String, ExpandError> {
        let word = self.operand('}', false)?;
        let value = self.value(name)?;
        let given = value.clone().filter(|value| !(colon && value.is_empty()));
        if value.is_none() && (kind == '?' || self.lexer.skip_unset) && kind != '+' && kind != '-' {
            self.unset.insert(name.to_owned());
        }
        let present = value.is_some();
        match kind {
            _ if !present && self.lexer.skip_unset => Ok(format!("${{{name}{modifier}{word}}}")),
            '-' => Ok(given.unwrap_or(word)),
            '+' => Ok(if given.is_some() { word } else { String::new() }),
            _ => match given {
                Some(value) => Ok(value),
                None if !word.is_empty() => Err(ExpandError::required(name, format!("{name}: {word}"))),
                None if present => {
                    Err(ExpandError::required(name, format!("{name}: is not allowed to be empty")))
                }
                None => Err(ExpandError::required(name, format!("{name}: is not allowed to be unset"))),
            },
        }
    }

    /// `${name#pattern}` and its three kin.
    fn trim(&mut self, name: &str, kind: char) -> Result<String, ExpandError> {
        let greedy = self.peek() == Some(kind);
        self.at += usize::from(greedy);
        let pattern = self.operand('}', true)?;
        let Some(value) = self.lookup(name)? else {
            let mark = if greedy { format!("{kind}{kind}") } else { kind.to_string() };
            return Ok(self.unset_text(format!("${{{name}{mark}{pattern}}}")));
        };
        let affix = if kind == '#' { Affix::Prefix } else { Affix::Suffix };
        Ok(Pattern::parse(&pattern, self.lexer.escape)?.trim(&value, affix, greedy)?)
    }

    /// `${name/pattern/text}` and `${name//pattern/text}`.
    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = match self.lookup(name)? {
            Some(value) => value,
            None if self.lexer.skip_unset => {
                let mark = if all { "//" } else { "/" };
                return Ok(format!("${{{name}{mark}{pattern}/{replacement}}}"));
            }
            // An empty pattern is found in nothing, too.
            None => String::new(),
        };
        let pattern = Pattern::parse(&pattern, self.lexer.escape)?;
        pattern.replace(&value, &replacement, all, |bytes| self.charge(bytes))
    }

    fn unset_text(&self, written: String) -> String {
        if self.lexer.skip_unset { written } else { String::new() }
    }

    fn value(&mut self, name: &str) -> Result<Option<String>, ExpandError> {
        let variables = self.variables;
        let Some(value) = variables.get(name) else { return Ok(None) };
        self.charge(value.len())?;
        Ok(Some(value.to_owned()))
    }

    fn lookup(&mut self, name: &str) -> Result<Option<String>, ExpandError> {
        let value = self.value(name)?;
        if value.is_none() {
            self.unset.insert(name.to_owned());
        }
        Ok(value)
    }

    /// A variable's name: letters, digits and `_`; only digits after a digit; or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let starts_with_digit = self.peek().is_some_and(|c| c.is_ascii_digit());
        while let Some(c) = self.peek() {
            let special = matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!');
            let fits = match (starts_with_digit, name.is_empty()) {
                (true, _) => c.is_ascii_digit(),
                (false, true) => special || c.is_alphabetic() || c == '_',
                (false, false) => c.is_alphanumeric() || c == '_',
            };
            if !fits {
                break;
            }
            name.push(c);
            self.at += 1;
            if special {
                break;
            }
        }
        name
    }
}
