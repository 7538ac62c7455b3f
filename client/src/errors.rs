//! How a failure reads: one place for the text, the excerpt and the hint.

use std::fmt::Write as _;

use prost::Message as _;
use rbuild_api::google::rpc::Status as RpcStatus;

/// A command that failed. `message` stands alone; `excerpt` and `hint` help.
#[derive(Debug)]
pub(crate) struct CommandError {
    message: String,
    excerpt: Option<String>,
    hint: Option<String>,
    /// Shown by the progress display already, so only the excerpt and the last line are printed.
    usage: bool,
    /// What was printed says it all.
    told: bool,
}

impl CommandError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), excerpt: None, hint: None, usage: false, told: false }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(message) }
    }

    /// A failure that is told already: only the exit status is left.
    pub(crate) fn told() -> Self {
        Self { told: true, ..Self::new("") }
    }

    pub(crate) fn excerpt(self, excerpt: Option<String>) -> Self {
        Self { excerpt, ..self }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// 2 for a wrong command line, 1 for everything else.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }

    /// A failed call of the daemon.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        let mut error = Self::new(status.message());
        if status.message().is_empty() {
            error.message = status.to_string();
        }
        // A transport that broke has a cause; what the daemon answered has none.
        if let Some(cause) = std::error::Error::source(status) {
            error.message = with_causes(status.message(), Some(cause));
            error.hint =
                Some("is the daemon still running? over tcp, does it want (other) certificates?".into());
        }
        if let Ok(rpc) = RpcStatus::decode(status.details()) {
            error.excerpt = rpc.details.iter().find_map(|any| match any.type_url.as_str() {
                "github.com/moby/buildkit/errdefs.Source+json" => excerpt_of(&any.value),
                _ => None,
            });
        }
        error
    }

    /// The whole text, ready for standard error.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        if self.told {
            return text;
        }
        if let Some(excerpt) = &self.excerpt {
            text.push_str(excerpt);
        }
        let kind = if self.usage { "error" } else { "ERROR" };
        // Writing to a string cannot fail.
        let _ok = writeln!(text, "{kind}: {}", self.message).is_ok();
        if let Some(hint) = &self.hint {
            let _ok = writeln!(text, "hint: {hint}").is_ok();
        }
        text
    }
}

/// The whole chain of causes: the outermost text of a transport error says nothing.
pub(crate) fn with_causes(text: &str, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = text.to_owned();
    while let Some(error) = cause {
        let own = error.to_string();
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    text
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<tonic::Status> for CommandError {
    fn from(status: tonic::Status) -> Self {
        Self::from_status(&status)
    }
}

/// Lines around the failing instruction, the instruction itself marked, in the look of upstream's clients.
fn excerpt_of(json: &[u8]) -> Option<String> {
    use base64::Engine as _;
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let info = value.get("info")?;
    let data = base64::engine::general_purpose::STANDARD.decode(info.get("data")?.as_str()?).ok()?;
    let name = info.get("filename").and_then(|name| name.as_str()).unwrap_or("Dockerfile");
    let marked = Excerpt::marked(value.get("ranges")?);
    Excerpt { name, text: &String::from_utf8_lossy(&data), marked: &marked }.render()
}

/// Lines of a file around those that something is about.
#[derive(Debug)]
pub(crate) struct Excerpt<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    /// Ranges of lines from 1, both ends included.
    pub(crate) marked: &'a [(usize, usize)],
}

impl Excerpt<'_> {
    /// Ranges as JSON has them.
    pub(crate) fn marked(ranges: &serde_json::Value) -> Vec<(usize, usize)> {
        let line = |range: &serde_json::Value, end: &str| {
            range.get(end)?.get("line")?.as_i64().and_then(|line| usize::try_from(line).ok())
        };
        let marked = ranges.as_array().into_iter().flatten().filter_map(|range| {
            let start = line(range, "start")?;
            Some((start, line(range, "end").unwrap_or(start).max(start)))
        });
        marked.collect()
    }

    /// The lines, those that are marked with an arrow; nothing if none is.
    pub(crate) fn render(&self) -> Option<String> {
        const RULE: &str = "--------------------";
        let first = self.marked.iter().map(|(start, _)| *start).min()?;
        let last = self.marked.iter().map(|(_, end)| *end).max()?;
        // Enough to see the instruction's surroundings; a long one shows itself.
        let around = if first == last { 2 } else { 1 };
        let from = first.saturating_sub(around).max(1);
        let mut out = format!("{}:{first}\n{RULE}\n", self.name);
        let lines = self.text.split('\n').enumerate();
        for (index, line) in lines.skip(from - 1).take(last.saturating_add(around + 1) - from) {
            let number = index + 1;
            let hit = self.marked.iter().any(|(start, end)| (*start..=*end).contains(&number));
            let mark = if hit { ">>>" } else { "   " };
            let shown = crate::ui::plain(line);
            let _ok = writeln!(out, " {number:>3} | {mark} {shown}").is_ok();
        }
        out.push_str(RULE);
        out.push('\n');
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_line_is_marked_and_escapes_are_taken_out() {
        let text = "FROM a\n\nRUN \u{1b}[31mx\nRUN y\nRUN z\n";
        let text = Excerpt { name: "Dockerfile", text, marked: &[(3, 3)] }.render().unwrap();
        assert_eq!(
            text,
            "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     \n   3 | >>> RUN [31mx\n   4 |     RUN y\n   5 |     RUN z\n--------------------\n"
        );
    }

    #[test]
    fn absurd_ranges_do_not_panic() {
        for marked in [&[(0, 0)][..], &[(usize::MAX / 2, usize::MAX / 2)], &[]] {
            let shown = Excerpt { name: "f", text: "a\n", marked }.render().unwrap_or_default();
            assert!(shown.len() < 200);
        }
    }
}
