use rbuild_frontend::Fault;

use super::directive::Directives;
use super::heredoc::{Heredoc, heredocs_of};
use super::lines::{LineReader, MAX_FILE_BYTES, continued, is_comment, trim_newline};
use super::words::{JsonWords, fields, json_words, quoted_fields, split_flags};
use crate::CompileError;
use crate::source::Lines;
use crate::suggest;

/// All instructions.
pub(crate) const KEYWORDS: [&str; 18] = [
    "add",
    "arg",
    "cmd",
    "copy",
    "entrypoint",
    "env",
    "expose",
    "from",
    "healthcheck",
    "label",
    "maintainer",
    "onbuild",
    "run",
    "shell",
    "stopsignal",
    "user",
    "volume",
    "workdir",
];

/// One instruction, split into words by the rules of its keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Lower case.
    pub(crate) keyword: String,
    /// As it is written, continuations joined.
    pub(crate) original: String,
    /// The words that begin with `--`.
    pub(crate) flags: Vec<String>,
    /// The other words.
    pub(crate) args: NodeArgs,
    /// The documents below.
    pub(crate) heredocs: Vec<Heredoc>,
    /// Where it stands, heredocs included.
    pub(crate) lines: Lines,
    /// The comments above, up to an empty one; an empty line does not end them.
    pub(crate) comments: Vec<String>,
}

/// The words of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeArgs {
    /// Plain words.
    Words(Vec<String>),
    /// The words of a JSON array.
    Json(Vec<String>),
    /// Names with values.
    Pairs(Vec<(String, String)>),
    /// The instruction behind ONBUILD.
    Nested(Box<Node>),
}

/// A parsed file before its instructions are understood.
#[derive(Debug, Default)]
pub(crate) struct NodeFile {
    pub(crate) directives: Directives,
    pub(crate) nodes: Vec<Node>,
    /// The last lines of instructions that are continued by empty ones.
    pub(crate) empty_continuations: Vec<u32>,
    pub(crate) line_count: u32,
}

/// Splits a Dockerfile into instructions.
pub(crate) fn parse_nodes(text: &[u8]) -> Result<NodeFile, CompileError> {
    if text.len() > MAX_FILE_BYTES {
        let size = text.len();
        let message = format!("dockerfile has {size} bytes, at most {MAX_FILE_BYTES} are allowed");
        return Err(CompileError::new(message).fault(Fault::DockerfileLimit));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    let directives = Directives::parse(text.lines())?;
    let escape = directives.escape;
    let mut file = NodeFile { directives, ..NodeFile::default() };
    let mut reader = LineReader::new(&text);
    let mut comments = Vec::new();
    while let Some(line) = reader.next()? {
        let first = reader.number;
        let line = trim_newline(line).trim_start();
        if let Some(comment) = line.strip_prefix('#') {
            if first > file.directives.lines {
                add_comment(&mut comments, comment.trim());
            }
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let joined = join_continued(line, &mut reader, escape, &mut file.empty_continuations)?;
        let mut lines = Lines { first, last: reader.number };
        let mut node = parse_node(&joined, escape, lines)?;
        read_heredocs(&mut node, &joined, &mut reader, escape)?;
        lines.last = reader.number;
        node.lines = lines;
        node.comments = std::mem::take(&mut comments);
        file.nodes.push(node);
    }
    file.line_count = reader.number;
    if file.nodes.is_empty() {
        let error = CompileError::at(Lines::one(reader.number.max(1)), "file with no instructions");
        return Err(error
            .fault(Fault::NoStage)
            .hint("a Dockerfile begins with FROM and the name of an image"));
    }
    Ok(file)
}

fn add_comment(comments: &mut Vec<String>, text: &str) {
    if text.is_empty() {
        comments.clear();
    } else {
        comments.push(text.to_owned());
    }
}

/// Parses a trigger that a base image carries: one instruction, its documents below. All errors are at `lines`,
/// where the base is named: the text itself is not in the file.
pub(crate) fn parse_trigger(text: &str, escape: char, lines: Lines) -> Result<Node, CompileError> {
    let mut reader = LineReader::new(text);
    let mut node = next_trigger(&mut reader, escape, lines).map_err(|error| error.moved_to(lines))?;
    node.lines = lines;
    Ok(node)
}

fn next_trigger(reader: &mut LineReader<'_>, escape: char, lines: Lines) -> Result<Node, CompileError> {
    let mut node = None;
    while let Some(line) = reader.next()? {
        let line = trim_newline(line).trim_start();
        if line.is_empty() || is_comment(line) {
            continue;
        }
        if node.is_some() {
            return Err(CompileError::new("onbuild trigger should be a single expression"));
        }
        let joined = join_continued(line, reader, escape, &mut Vec::new())?;
        let read = node.insert(parse_node(&joined, escape, lines)?);
        read_heredocs(read, &joined, reader, escape)?;
    }
    node.ok_or_else(|| CompileError::new("file with no instructions"))
}

/// Joins a line with those that continue it; comments between them are dropped.
fn join_continued(
    first: &str,
    reader: &mut LineReader<'_>,
    escape: char,
    empty_continuations: &mut Vec<u32>,
) -> Result<String, CompileError> {
    let Some(body) = continued(first, escape) else { return Ok(first.to_owned()) };
    let mut joined = body.to_owned();
    let mut empty_line = false;
    while let Some(line) = reader.next()? {
        let line = trim_newline(line);
        if is_comment(line) {
            continue;
        }
        if line.trim_start().is_empty() {
            empty_line = true;
            continue;
        }
        match continued(line, escape) {
            Some(body) => joined.push_str(body),
            None => {
                joined.push_str(line);
                break;
            }
        }
    }
    if empty_line {
        empty_continuations.push(reader.number);
    }
    Ok(joined)
}

/// Reads the documents that an instruction announces.
fn read_heredocs(
    node: &mut Node,
    joined: &str,
    reader: &mut LineReader<'_>,
    escape: char,
) -> Result<(), CompileError> {
    let target = match &mut node.args {
        NodeArgs::Nested(inner) => inner.as_mut(),
        _ => node,
    };
    if !matches!(target.keyword.as_str(), "add" | "copy" | "run") {
        return Ok(());
    }
    for mut heredoc in heredocs_of(joined, escape) {
        loop {
            let Some(line) = reader.next()? else {
                let lines = Lines { first: target.lines.first, last: reader.number };
                let hint = format!("no line after it is `{}` and nothing else", heredoc.name);
                let error = CompileError::at(lines, "unterminated heredoc").fault(Fault::Heredoc);
                return Err(error.word(&heredoc.name).hint(hint));
            };
            if heredoc.ends_with(line) {
                break;
            }
            heredoc.content.push_str(line);
        }
        target.heredocs.push(heredoc);
    }
    target.lines.last = reader.number;
    Ok(())
}

/// Parses one instruction on one (joined) line.
fn parse_node(line: &str, escape: char, lines: Lines) -> Result<Node, CompileError> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let keyword = word.to_lowercase();
    let rest = rest.trim();
    let (flags, rest) = split_flags(rest, escape);
    let args = match keyword.as_str() {
        "onbuild" => nested(rest, escape, lines)?,
        "add" | "copy" | "volume" => match json_words(rest) {
            JsonWords::Words(words) => NodeArgs::Json(words),
            JsonWords::NotStrings => return Err(not_strings(lines).word(rest.trim())),
            JsonWords::No => NodeArgs::Words(fields(rest)),
        },
        "cmd" | "entrypoint" | "run" | "shell" => command_words(rest, lines)?,
        "env" | "label" => {
            let pairs = pairs(&keyword, rest, escape);
            NodeArgs::Pairs(pairs.map_err(|(word, message)| {
                CompileError::at(lines, message).word(word).fault(Fault::Arguments)
            })?)
        }
        "arg" => NodeArgs::Words(quoted_fields(rest, escape)),
        "healthcheck" => health_words(rest, lines)?,
        "maintainer" | "stopsignal" | "user" | "workdir" => NodeArgs::Words(whole(rest)),
        _ => NodeArgs::Words(fields(rest)),
    };
    Ok(Node {
        keyword,
        original: line.to_owned(),
        flags,
        args,
        heredocs: Vec::new(),
        lines,
        comments: Vec::new(),
    })
}

/// The error for a word that is no instruction; the suggestion follows the word's case.
pub(crate) fn unknown_instruction(node: &Node) -> CompileError {
    let word = node.original.split_whitespace().next().unwrap_or_default();
    let upper = !word.is_empty() && word.chars().all(|c| !c.is_lowercase());
    let near = suggest::nearest(word, KEYWORDS, false);
    let meant = near.map_or_else(String::new, |near| {
        let near = if upper { near.to_uppercase() } else { near.to_owned() };
        format!(" (did you mean {near}?)")
    });
    let error = CompileError::syntax(node.lines, format!("unknown instruction: {word}{meant}"))
        .fault(Fault::UnknownInstruction)
        .word(word);
    match near {
        Some(_) => error,
        None => error
            .hint("a command that goes on over several lines needs a `\\` at the end of each but the last"),
    }
}

fn not_strings(lines: Lines) -> CompileError {
    CompileError::at(lines, "when using JSON array syntax, arrays must be comprised of strings only")
        .fault(Fault::Syntax)
        .hint("put each element into double quotes")
}

fn whole(rest: &str) -> Vec<String> {
    if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] }
}

fn nested(rest: &str, escape: char, lines: Lines) -> Result<NodeArgs, CompileError> {
    if rest.is_empty() {
        return Ok(NodeArgs::Words(Vec::new()));
    }
    // A chain of ONBUILDs is refused later; parsing it must not recurse with its length.
    let (word, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if word.eq_ignore_ascii_case("onbuild") {
        let node = Node {
            keyword: "onbuild".to_owned(),
            original: rest.to_owned(),
            flags: Vec::new(),
            args: NodeArgs::Words(whole(tail)),
            heredocs: Vec::new(),
            lines,
            comments: Vec::new(),
        };
        return Ok(NodeArgs::Nested(Box::new(node)));
    }
    Ok(NodeArgs::Nested(Box::new(parse_node(rest, escape, lines)?)))
}

fn command_words(rest: &str, lines: Lines) -> Result<NodeArgs, CompileError> {
    if rest.is_empty() {
        return Ok(NodeArgs::Words(Vec::new()));
    }
    match json_words(rest) {
        JsonWords::Words(words) => Ok(NodeArgs::Json(words)),
        JsonWords::NotStrings => Err(not_strings(lines).word(rest.trim())),
        JsonWords::No => Ok(NodeArgs::Words(vec![rest.to_owned()])),
    }
}

/// The type, then a command in either form.
fn health_words(rest: &str, lines: Lines) -> Result<NodeArgs, CompileError> {
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if kind.is_empty() {
        return Ok(NodeArgs::Words(Vec::new()));
    }
    Ok(match command_words(command.trim(), lines)? {
        NodeArgs::Json(mut words) => {
            words.insert(0, kind.to_owned());
            NodeArgs::Json(words)
        }
        NodeArgs::Words(mut words) => {
            words.insert(0, kind.to_owned());
            NodeArgs::Words(words)
        }
        other => other,
    })
}

/// Whether ENV or LABEL is written in the old form: a name, white space, the value.
pub(crate) fn is_legacy_pair(original: &str, escape: char) -> bool {
    let rest = original.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim());
    quoted_fields(rest, escape).first().is_some_and(|first| !first.contains('='))
}

/// `name=value …`, or the old form of one name and the rest of the line. Errors: the wrong word, and why.
fn pairs(keyword: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, (String, String)> {
    let words = quoted_fields(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let mut parts = rest.splitn(2, char::is_whitespace);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            return Err((rest.to_owned(), format!("{} must have two arguments", keyword.to_uppercase())));
        };
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => {
                let quoted = crate::text::quote(word);
                let message =
                    format!("Syntax error - can't find = in {quoted}. Must be of the form: name=value");
                Err((word.clone(), message))
            }
        })
        .collect()
}
