use rbuild_frontend::Fault;

use crate::CompileError;
use crate::source::Lines;

/// What the comments at the top of a Dockerfile say to the parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directives {
    /// `# syntax=`: which frontend should compile the file.
    pub(crate) syntax: Option<String>,
    /// `# escape=`: `\` or a backtick.
    pub(crate) escape: char,
    /// `# check=`: what the checker should do.
    pub(crate) check: Option<String>,
    /// How many lines they take.
    pub(crate) lines: u32,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None, lines: 0 }
    }
}

const NAMES: [&str; 3] = ["escape", "syntax", "check"];

/// `key=value` of a comment that may be a directive.
fn key_value<'a>(line: &'a str, mark: &str) -> Option<(String, &'a str)> {
    let body = line.trim_start().strip_prefix(mark)?;
    let (key, value) = body.split_once('=')?;
    let key = key.trim();
    let plain = !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric())
        && key.starts_with(|c: char| c.is_ascii_alphabetic());
    let value = value.trim();
    (plain && !value.is_empty()).then(|| (key.to_lowercase(), value))
}

impl Directives {
    /// Reads the directives; the first line that is none ends them.
    pub(crate) fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Self, CompileError> {
        let mut found = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for line in lines {
            let Some((key, value)) = key_value(line, "#").filter(|(key, _)| NAMES.contains(&key.as_str()))
            else {
                break;
            };
            found.lines += 1;
            if seen.contains(&key) {
                return Err(CompileError::at(
                    Lines::one(found.lines),
                    format!("only one {key} parser directive can be used"),
                )
                .fault(Fault::Syntax));
            }
            match key.as_str() {
                "escape" => {
                    found.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        _ => {
                            return Err(CompileError::at(
                                Lines::one(found.lines),
                                format!("invalid escape token '{value}' does not match ` or \\"),
                            )
                            .fault(Fault::Syntax)
                            .word(value));
                        }
                    }
                }
                "syntax" => found.syntax = Some(value.to_owned()),
                _ => found.check = Some(value.to_owned()),
            }
            seen.push(key);
        }
        Ok(found)
    }
}

/// The directives of a Dockerfile's bytes.
pub(crate) fn directives(text: &[u8]) -> Result<Directives, CompileError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = String::from_utf8_lossy(&text[..text.len().min(DETECT_BYTES)]);
    Directives::parse(text.lines())
}

/// The frontend that a file of any language asks for: a `syntax` directive behind `#` or `//`, after an
/// optional `#!` line, or the string `syntax` of a JSON object. With it, its line (0: unknown).
pub(crate) fn detect_syntax(text: &[u8]) -> Option<(String, u32)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = String::from_utf8_lossy(&text[..text.len().min(DETECT_BYTES)]);
    let mut lines = text.lines().enumerate().peekable();
    if lines.peek().is_some_and(|(_, line)| line.starts_with("#!")) {
        lines.next();
    }
    let rest: Vec<(usize, &str)> = lines.collect();
    ["#", "//"].iter().find_map(|mark| syntax_behind(mark, &rest)).or_else(|| json_syntax(&text))
}

/// Directives stand at the top; nobody has more than this before them.
const DETECT_BYTES: usize = 1 << 20;

fn syntax_behind(mark: &str, lines: &[(usize, &str)]) -> Option<(String, u32)> {
    for (index, line) in lines {
        let (key, value) = key_value(line, mark)?;
        if key == "syntax" {
            return Some((value.to_owned(), u32::try_from(index + 1).unwrap_or(u32::MAX)));
        }
        if !NAMES.contains(&key.as_str()) {
            return None;
        }
    }
    None
}

fn json_syntax(text: &str) -> Option<(String, u32)> {
    #[derive(serde::Deserialize)]
    struct Head {
        syntax: String,
    }
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let head = serde_json::Deserializer::from_str(text).into_iter::<Head>().next()?.ok()?;
    Some((head.syntax, 0))
}
