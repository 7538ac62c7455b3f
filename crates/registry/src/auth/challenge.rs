use std::collections::BTreeMap;

/// One challenge of a `WWW-Authenticate` header (RFC 9110, section 11.6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Lower case (`bearer`, `basic`).
    pub(crate) scheme: String,
    /// Names in lower case.
    pub(crate) params: BTreeMap<String, String>,
}

/// The challenges of one header. What cannot be read ends the list; nothing is guessed.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = split_token(rest);
        if word.is_empty() {
            break;
        }
        let trimmed = after.trim_start();
        if let Some(value) = trimmed.strip_prefix('=') {
            let Some(challenge) = challenges.last_mut() else { break };
            let Some((value, after)) = parse_value(value.trim_start()) else { break };
            challenge.params.entry(word.to_ascii_lowercase()).or_insert(value);
            rest = after;
        } else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), params: BTreeMap::new() });
            rest = after;
        }
    }
    challenges
}

fn split_token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(header: &str) -> Vec<String> {
        parse(header).into_iter().map(|c| format!("{} {:?}", c.scheme, c.params)).collect()
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        assert_eq!(
            show(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#
            ),
            [
                r#"bearer {"realm": "https://auth.docker.io/token", "scope": "repository:a/b:pull,push", "service": "registry.docker.io"}"#
            ]
        );
        assert_eq!(
            show(r#"Basic realm="a \"b\"", Bearer realm=x"#),
            [r#"basic {"realm": "a \"b\""}"#, r#"bearer {"realm": "x"}"#]
        );
        assert_eq!(show("Negotiate, BASIC"), ["negotiate {}", "basic {}"]);
    }

    #[test]
    fn nonsense_is_not_guessed_at() {
        assert!(show("").is_empty());
        assert!(show("=x").is_empty());
        assert_eq!(show(r#"Bearer realm="unterminated"#), ["bearer {}"]);
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(header in ".{0,80}|[a-zA-Z=\", \\\\]{0,60}") {
            parse(&header);
        }
    }
}
