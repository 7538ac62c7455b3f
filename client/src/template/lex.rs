use super::TemplateError;

/// A piece of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A keyword, a function, `true`, `false` or `nil`.
    Word(String),
    /// `.Name`; `glued` to what stands before it.
    Field {
        name: String,
        glued: bool,
    },
    /// A dot alone.
    Dot,
    /// `$name`, empty for `$`.
    Variable(String),
    Text(String),
    Number(serde_json::Number),
    /// `(`, `)`, `|`, `,`, `=`, `:=`.
    Sign(&'static str),
}

/// A piece of a template.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

/// Splits a template at its actions; spaces are trimmed where `{{-` and `-}}` say so, comments are left out.
pub(super) fn pieces(mut rest: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut trim = false;
    loop {
        let start = rest.find("{{");
        let mut text = start.map_or(rest, |at| &rest[..at]);
        if trim {
            text = text.trim_start();
        }
        let Some(start) = start else {
            push_text(&mut pieces, text);
            return Ok(pieces);
        };
        let body = &rest[start + 2..];
        let end = action_end(body).ok_or(TemplateError::Unclosed)?;
        rest = &body[end + 2..];
        let mut action = &body[..end];
        if let Some(tail) = action.strip_prefix('-').filter(|tail| tail.starts_with(char::is_whitespace)) {
            action = tail;
            text = text.trim_end();
        }
        push_text(&mut pieces, text);
        trim = action.ends_with('-') && action[..action.len() - 1].ends_with(char::is_whitespace);
        if trim {
            action = &action[..action.len() - 1];
        }
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(action));
        }
    }
}

fn push_text<'a>(pieces: &mut Vec<Piece<'a>>, text: &'a str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// Where the `}}` of an action is: not within its strings or comments.
fn action_end(body: &str) -> Option<usize> {
    let trimmed = body.trim_start_matches('-').trim_start();
    if trimmed.starts_with("/*") {
        let comment = body.find("*/")?;
        return Some(comment + body[comment..].find("}}")?);
    }
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if body[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// The tokens of an action.
pub(super) fn tokens(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action;
    let mut spaced = true;
    while let Some(c) = rest.chars().next() {
        if c.is_whitespace() {
            rest = rest.trim_start();
            spaced = true;
            continue;
        }
        let (token, len) = match c {
            '"' | '`' => string(rest)?,
            '$' => {
                let name = word(&rest[1..]);
                (Token::Variable(name.to_owned()), 1 + name.len())
            }
            '.' => match word(&rest[1..]) {
                "" => (Token::Dot, 1),
                name => (Token::Field { name: name.to_owned(), glued: !spaced }, 1 + name.len()),
            },
            '-' | '+' | '0'..='9' => number(rest)?,
            c if c == '_' || c.is_alphabetic() => {
                let name = word(rest);
                (Token::Word(name.to_owned()), name.len())
            }
            _ => {
                let sign = [":=", "=", "(", ")", "|", ","].into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| TemplateError::Unexpected { found: format!("`{c}`") })?;
                (Token::Sign(sign), sign.len())
            }
        };
        spaced = matches!(token, Token::Sign(sign) if sign != ")");
        tokens.push(token);
        rest = &rest[len..];
    }
    Ok(tokens)
}

/// The identifier at the beginning of a text.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
    &text[..end]
}

fn number(text: &str) -> Result<(Token, usize), TemplateError> {
    let end = text.find(|c: char| !matches!(c, '-' | '+' | '.' | '0'..='9')).unwrap_or(text.len());
    let digits = text[..end].trim_start_matches('+');
    let number = digits.parse::<i64>().ok().map(serde_json::Number::from);
    let number = number.or_else(|| serde_json::Number::from_f64(digits.parse().ok()?));
    let found = || TemplateError::Unexpected { found: format!("`{}`", &text[..end]) };
    Ok((Token::Number(number.ok_or_else(found)?), end))
}

/// A string with Go's escapes, or a raw one in backquotes.
fn string(text: &str) -> Result<(Token, usize), TemplateError> {
    let unexpected = || TemplateError::Unexpected { found: "string".to_owned() };
    if let Some(raw) = text.strip_prefix('`') {
        let end = raw.find('`').ok_or(TemplateError::Unclosed)?;
        return Ok((Token::Text(raw[..end].to_owned()), end + 2));
    }
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Text(out), at + 1)),
            '\\' => {
                let (_, escape) = chars.next().ok_or_else(unexpected)?;
                out.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '\\' | '"' => escape,
                    other => {
                        return Err(TemplateError::Unsupported { what: format!("\\{other}") });
                    }
                });
            }
            other => out.push(other),
        }
    }
    Err(unexpected())
}
