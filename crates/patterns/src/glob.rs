use crate::PatternError;

/// Whether `name` as a whole matches `pattern` by the rules of Go's `filepath.Match`: `*` and `?` stop at `/`,
/// `[a-z]` and `[^a-z]` are classes, `\` takes the next character as it is.
///
/// Errors: a malformed pattern, whether or not the name would have got that far.
pub fn glob_match(pattern: &str, name: &str) -> Result<bool, PatternError> {
    let chunks = parse(pattern)?;
    Ok(matches(&chunks, name.as_bytes()))
}

/// Checks a glob without matching anything.
pub(crate) fn check(pattern: &str) -> Result<(), PatternError> {
    parse(pattern).map(|_| ())
}

/// Whether `*`, `?` or `[` stands in `s` without a `\` before it.
pub fn has_wildcard(s: &str) -> bool {
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

#[derive(Debug)]
enum Token {
    Byte(u8),
    Any,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// What stands between stars.
#[derive(Debug, Default)]
struct Chunk {
    /// A star stands before it.
    star: bool,
    tokens: Vec<Token>,
}

fn parse(pattern: &str) -> Result<Vec<Chunk>, PatternError> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut chunk = Chunk::default();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => {
                if chunk.star || !chunk.tokens.is_empty() {
                    if chunk.star && chunk.tokens.is_empty() {
                        continue;
                    }
                    chunks.push(std::mem::take(&mut chunk));
                }
                chunk.star = true;
            }
            '?' => chunk.tokens.push(Token::Any),
            '[' => chunk.tokens.push(class(pattern, &mut chars)?),
            '\\' => {
                let next = chars.next().ok_or_else(|| PatternError::new(pattern, "ends with `\\`"))?;
                push_bytes(&mut chunk, next);
            }
            _ => push_bytes(&mut chunk, c),
        }
    }
    if chunk.star || !chunk.tokens.is_empty() {
        chunks.push(chunk);
    }
    Ok(chunks)
}

fn push_bytes(chunk: &mut Chunk, c: char) {
    let mut buffer = [0; 4];
    chunk.tokens.extend(c.encode_utf8(&mut buffer).bytes().map(Token::Byte));
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn class(pattern: &str, chars: &mut Chars<'_>) -> Result<Token, PatternError> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(pattern, chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(pattern, chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(pattern: &str, chars: &mut Chars<'_>) -> Result<char, PatternError> {
    let open = || PatternError::new(pattern, "has a `[` without its `]`");
    let c = match chars.next().ok_or_else(open)? {
        '-' | ']' => return Err(PatternError::new(pattern, "has a malformed character class")),
        '\\' => chars.next().ok_or_else(open)?,
        c => c,
    };
    if chars.peek().is_none() { Err(open()) } else { Ok(c) }
}

/// Go's way: every chunk takes the first place where it fits and never reconsiders.
fn matches(chunks: &[Chunk], mut name: &[u8]) -> bool {
    for (position, chunk) in chunks.iter().enumerate() {
        let last = position + 1 == chunks.len();
        if chunk.star && chunk.tokens.is_empty() {
            return !name.contains(&b'/');
        }
        match place(chunk, name, last) {
            Some(rest) => name = rest,
            None => return false,
        }
    }
    name.is_empty()
}

/// What is left of `name` after the chunk; the last chunk must leave nothing.
fn place<'a>(chunk: &Chunk, name: &'a [u8], last: bool) -> Option<&'a [u8]> {
    let fits = |name: &'a [u8]| match_tokens(&chunk.tokens, name).filter(|rest| rest.is_empty() || !last);
    if let Some(rest) = fits(name) {
        return Some(rest);
    }
    if !chunk.star {
        return None;
    }
    let skippable = name.iter().take_while(|b| **b != b'/').count();
    (1..=skippable).find_map(|skip| fits(&name[skip..]))
}

fn match_tokens<'a>(tokens: &[Token], mut name: &'a [u8]) -> Option<&'a [u8]> {
    for token in tokens {
        let first = *name.first()?;
        let width = match token {
            Token::Byte(byte) => (*byte == first).then_some(1)?,
            Token::Any => (first != b'/').then(|| decode(name).1)?,
            Token::Class { negated, ranges } => {
                let (c, width) = decode(name);
                let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                (within != *negated).then_some(width)?
            }
        };
        name = &name[width..];
    }
    Some(name)
}

/// The first character and its length; a byte that begins none counts as U+FFFD.
fn decode(name: &[u8]) -> (char, usize) {
    let head = &name[..name.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(err) => std::str::from_utf8(&head[..err.valid_up_to()]).unwrap_or_default(),
    };
    valid.chars().next().map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_slashes() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "a/b", false),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "a/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^b-d]", "abc", false),
            ("a\\*b", "a*b", true),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
            ("**a", "bca", true),
            ("a[/]b", "a/b", true),
            // The class takes its first place, and what would fit later is not looked for.
            ("?*[./]?*", "x.ab/c", false),
        ] {
            assert_eq!(glob_match(pattern, name), Ok(expected), "{pattern} on {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors_for_every_name() {
        for pattern in
            ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a\\", "[\\", "x[a-"]
        {
            for name in ["", "a", "ab", "zzz"] {
                assert!(glob_match(pattern, name).is_err(), "{pattern} on {name}");
            }
        }
    }

    #[test]
    fn escaped_wildcards_are_none() {
        assert!(has_wildcard("a*") && has_wildcard("[x") && has_wildcard("\\\\*"));
        assert!(!has_wildcard("a\\*b") && !has_wildcard("plain/path\\"));
    }
}
