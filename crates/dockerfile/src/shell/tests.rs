use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Budget, Lexer, Unset, Variables};

struct Map(BTreeMap<&'static str, &'static str>);

impl Variables for Map {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).copied()
    }
    fn names(&self) -> Vec<&str> {
        self.0.keys().copied().collect()
    }
}

fn vars() -> Map {
    Map([("x", "a b"), ("e", ""), ("p", "foo/bar.tar.gz"), ("n", "1")].into())
}

fn expand(text: &str) -> String {
    match Lexer::new('\\').expand(text, &vars(), &Budget::default()) {
        Ok(expanded) => expanded.text,
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn every_form_of_a_variable() {
    let cases = [
        ("$x-${x}", "a b-a b"),
        ("${u:-w}${e:-w}${e-w}${u-w}", "www"),
        ("${x:+w}${e:+w}${e+w}${u+w}", "ww"),
        ("${x:?m}${e?m}", "a b"),
        ("${p#*/}|${p##*o}|${p%.*}|${p%%.*}", "bar.tar.gz|/bar.tar.gz|foo/bar.tar|foo/bar"),
        ("${p/o/0}|${p//o/0}|${p//o/}", "f0o/bar.tar.gz|f00/bar.tar.gz|f/bar.tar.gz"),
        ("${u:-${x}}|${u:-'$x'}|${u:-\"$n\"}", "a b|$x|1"),
        ("'$x' \"$x\" \\$x \"\\$x\" $ $$", "$x a b $x $x $ "),
        ("a\\\\b \"a\\\\b\" \"a\\nb\" '\\'", "a\\b a\\b a\\nb \\"),
        ("$nx ${n}x", " 1x"),
    ];
    for (text, expected) in cases {
        assert_eq!(expand(text), expected, "{text}");
    }
}

#[test]
fn mistakes_are_told() {
    let cases = [
        ("${", "syntax error: missing '}'"),
        ("${x", "syntax error: missing '}'"),
        ("${}", "bad substitution"),
        ("${x:bad}", "unsupported modifier (:b) in substitution"),
        ("${u?}", "u: is not allowed to be unset"),
        ("${u:?}", "u: is not allowed to be unset"),
        ("${e:?}", "e: is not allowed to be empty"),
        ("${u:?because}", "u: because"),
        ("\"x", "looking for matching double-quote"),
        ("'x", "looking for matching single-quote"),
        ("${p/x", "missing '/' in ${}"),
        ("${p#\\x}", "invalid escape '\\x'"),
    ];
    for (text, expected) in cases {
        let error = expand(text);
        assert!(
            error.starts_with("error: failed to process ") && error.contains(expected),
            "{text}: {error}"
        );
    }
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    let text = "${u:-".repeat(10_000);
    assert!(expand(&text).contains("nested more than"));
}

#[test]
fn values_do_not_grow_without_bound() {
    struct Big(String);
    impl Variables for Big {
        fn get(&self, _name: &str) -> Option<&str> {
            Some(&self.0)
        }
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }
    }
    let big = Big("x".repeat(1 << 20));
    let texts = [
        "$a".repeat(1000),
        format!("\"{}\"", "$a".repeat(1000)),
        "${a//x/$a}".to_owned(),
        "${a///$a}".to_owned(),
        "${b:-$a}".repeat(1000),
        format!("${{a:+{}}}", "$a".repeat(1000)),
        "${a%y}".repeat(1000),
    ];
    for text in texts {
        let error = Lexer::new('\\').expand(&text, &big, &Budget::default()).unwrap_err().to_string();
        assert!(error.contains("expands to more than"), "{}", &error[error.len() - 100..]);
    }
    let budget = Budget::default();
    let error = (0..1000).find_map(|_| Lexer::new('\\').expand("$a", &big, &budget).err()).unwrap();
    let error = error.to_string();
    assert!(error.contains("in all"), "{error}");
}

#[test]
fn quoted_space_does_not_split() {
    let lexer = Lexer::new('\\');
    let words = lexer.expand_words("a  \"b c\" d\\ e $x ''", &vars(), &Budget::default()).unwrap();
    assert_eq!(words, ["a", "b c", "d e", "a", "b", ""]);
}

proptest! {
    #[test]
    fn expansion_never_panics(text in "\\PC{0,60}") {
        for lexer in [Lexer::new('\\'), Lexer::new('`'), Lexer::raw('\\'), Lexer::shown_command('\\'), Lexer::document('\\')] {
            drop(lexer.expand(&text, &vars(), &Budget::default()));
            drop(lexer.expand(&text, &Unset, &Budget::default()));
        }
    }

    #[test]
    fn expansion_of_likely_text_never_panics(text in "[$x{}:?+\\-#%/*'\"\\\\ ae.]{0,40}") {
        drop(Lexer::new('\\').expand(&text, &vars(), &Budget::default()));
        drop(Lexer::shown_command('\\').expand(&text, &vars(), &Budget::default()));
    }

    #[test]
    fn plain_words_stay(text in "[a-z0-9/._-]{1,40}") {
        prop_assert_eq!(expand(&text), text);
    }
}
