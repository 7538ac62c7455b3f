//! Splitting an instruction's text into words, in the several ways that instructions do it.

/// Words separated by white space.
pub(crate) fn fields(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Words separated by white space outside of quotes. Quotes and escapes stay in the words; an escape
/// character at the very end is dropped.
pub(crate) fn quoted_fields(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut started = false;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if started {
                words.push(std::mem::take(&mut word));
                started = false;
            }
            continue;
        }
        started = true;
        if c == escape && quote != Some('\'') {
            if let Some(next) = chars.next() {
                word.push(c);
                word.push(next);
            }
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
    }
    if started && !word.is_empty() {
        words.push(word);
    }
    words
}

/// A JSON array of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonWords {
    /// It is one.
    Words(Vec<String>),
    /// It is an array, but of other things.
    NotStrings,
    /// It is no JSON array.
    No,
}

/// Reads the exec form.
pub(crate) fn json_words(text: &str) -> JsonWords {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return JsonWords::No;
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(text) {
        Err(_) => JsonWords::No,
        Ok(values) => {
            let words = values.into_iter().map(|value| match value {
                serde_json::Value::String(word) => Some(word),
                _ => None,
            });
            words.collect::<Option<Vec<_>>>().map_or(JsonWords::NotStrings, JsonWords::Words)
        }
    }
}

/// Takes the words that begin with `--` off the front. Quotes are resolved and dropped, a bare `--` ends them.
pub(crate) fn split_flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (word, length) = flag_word(rest, escape);
        rest = rest[length..].trim_start();
        if word == "--" {
            break;
        }
        flags.push(word);
    }
    (flags, rest)
}

/// The word at the start of `text` without its quotes, and the bytes that it takes.
fn flag_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, at),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                continue;
            }
            Some(open) if c == open => {
                quote = None;
                continue;
            }
            _ => {}
        }
        if c == escape {
            if let Some((_, next)) = chars.next() {
                word.push(next);
            }
            continue;
        }
        word.push(c);
    }
    (word, text.len())
}
