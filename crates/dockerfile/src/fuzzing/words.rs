use std::collections::BTreeMap;

use super::word_model::{self, Failure, Rules};
use crate::parse::inner::quoted_fields;
use crate::shell::{Budget, Lexer, Unset, Variables};

struct Map(BTreeMap<String, String>);

impl Variables for Map {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Expansion of any text. The first byte picks a lexer, then a text, then `name=value` behind zero bytes.
///
/// Claims: text and words are those of a slow model, and both fail together; what is expanded without words is
/// what is expanded with them; a text without anything special stays; the raw lexer changes nothing.
pub fn words(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut parts = super::parts(rest).map(|part| String::from_utf8_lossy(part).into_owned());
    let text = parts.next().unwrap_or_default();
    let mut variables: BTreeMap<String, String> =
        parts.filter_map(|part| part.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
    for (name, value) in [("x", "a b"), ("e", ""), ("p", "foo/bar.tar.gz")] {
        variables.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    let escape = if choice & 8 == 0 { '\\' } else { '`' };
    let (lexer, rules) = lexer(choice & 7, escape);
    compare(&text, lexer, rules, Map(variables));
    raw_stays(&text, escape);
    fields_lose_no_text(&text, escape);
}

fn lexer(choice: u8, escape: char) -> (Lexer, Rules) {
    let plain =
        Rules { escape, keep_quotes: false, keep_escapes: false, quotes_are_text: false, keep_unset: false };
    match choice {
        0 => (Lexer::raw(escape), Rules { keep_quotes: true, keep_escapes: true, keep_unset: true, ..plain }),
        1 => (Lexer::shown_command(escape), Rules { keep_quotes: true, keep_unset: true, ..plain }),
        2 => (Lexer::document(escape), Rules { quotes_are_text: true, ..plain }),
        3 => (Lexer::heredoc_name(), Rules { escape: '\\', keep_unset: true, ..plain }),
        _ => (Lexer::new(escape), plain),
    }
}

fn compare(text: &str, lexer: Lexer, rules: Rules, variables: Map) {
    let expected = word_model::expand(text, rules, &variables.0);
    let whole = lexer.expand(text, &variables, &Budget::default());
    let words = lexer.expand_words(text, &variables, &Budget::default());
    if [whole.as_ref().err(), words.as_ref().err()].iter().flatten().any(|error| is_limit(&error.to_string()))
    {
        return;
    }
    assert_eq!(whole.is_ok(), words.is_ok(), "{text:?}: {whole:?} {words:?}");
    match expected {
        Err(Failure::TooSlow) => {}
        Err(Failure::Wrong) => assert!(whole.is_err(), "{text:?} {rules:?}: {whole:?}, the model refuses"),
        Ok((expected_text, expected_words)) => {
            let whole = whole.unwrap_or_else(|error| panic!("{text:?} {rules:?}: {error}"));
            assert_eq!(whole.text, expected_text, "{text:?} {rules:?}");
            assert_eq!(words.as_deref(), Ok(&expected_words[..]), "{text:?} {rules:?}");
            assert!(whole.unset.iter().all(|name| variables.get(name).is_none()), "{text:?}");
        }
    }
    if !text.contains(['$', '"', '\'', '\\', '`']) {
        let plain = lexer.expand(text, &variables, &Budget::default()).map(|expansion| expansion.text);
        assert_eq!(plain.as_deref(), Ok(text));
    }
}

fn is_limit(error: &str) -> bool {
    error.contains("expands to more than")
        || error.contains("expand to more than")
        || error.contains("pattern is too large")
}

/// Heredocs are looked for in what the raw lexer returns: it must be what was written.
fn raw_stays(text: &str, escape: char) {
    if let Ok(raw) = Lexer::raw(escape).expand(text, &Unset, &Budget::default()) {
        assert_eq!(raw.text, text);
    }
}

/// Splitting at white space outside of quotes only drops white space, and an escape character at the end.
fn fields_lose_no_text(text: &str, escape: char) {
    let squeeze = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let fields = squeeze(&quoted_fields(text, escape).concat());
    let all = squeeze(text);
    assert!(fields == all || all.strip_suffix(escape) == Some(&fields), "{text:?}: {fields:?}");
}
