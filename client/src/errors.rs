//! How a failure reads: one place for the text, the excerpt and the hints.

use std::fmt::Write as _;

use prost::Message as _;
use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_frontend::Fault;
use rbuild_progress::render::{Look, Mark, excerpt};
use serde_json::Value;

/// A command that failed. `message` stands alone; the rest helps.
#[derive(Debug)]
pub(crate) struct CommandError {
    message: String,
    /// The name of a known failure, as `docs/errors.md` lists it; a later daemon may know more than we do.
    code: Option<String>,
    excerpt: Option<String>,
    hints: Vec<String>,
    /// What was printed says it all.
    told: bool,
    /// An exit code that is not ours.
    exit: Option<u8>,
}

impl CommandError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: None,
            excerpt: None,
            hints: Vec::new(),
            told: false,
            exit: None,
        }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(message).fault(Fault::Usage)
    }

    /// Says which of the known failures it is, unless that is known.
    pub(crate) fn fault(mut self, fault: Fault) -> Self {
        self.code.get_or_insert_with(|| fault.code().to_owned());
        self
    }

    /// A failure that is told already: only the exit status is left.
    pub(crate) fn told() -> Self {
        Self { told: true, ..Self::new("") }
    }

    /// What was run has failed and said so itself: the command ends as it did.
    pub(crate) fn exit(code: u8) -> Self {
        Self { exit: Some(code), ..Self::told() }
    }

    pub(crate) fn excerpt(self, excerpt: Option<String>) -> Self {
        Self { excerpt, ..self }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(crate) fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// Whether the message has these words.
    pub(crate) fn says(&self, words: &str) -> bool {
        self.message.contains(words)
    }

    /// 2 for a wrong command line, 1 for everything else.
    pub(crate) fn exit_code(&self) -> u8 {
        if let Some(code) = self.exit {
            return code;
        }
        if self.code.as_deref() == Some(Fault::Usage.code()) { 2 } else { 1 }
    }

    /// A failed call of the daemon.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        let mut error = Self::new(status.message());
        if status.message().is_empty() {
            error.message = status.to_string();
        }
        // A transport that broke has a cause; what the daemon answered has none.
        if let Some(cause) = std::error::Error::source(status) {
            return Self::new(with_causes(status.message(), Some(cause)))
                .fault(Fault::Connection)
                .hint("is the daemon still running? over tcp, does it want (other) certificates?");
        }
        if let Ok(rpc) = RpcStatus::decode(status.details()) {
            for any in &rpc.details {
                error.take_detail(&any.type_url, &any.value);
            }
        }
        error
    }

    fn take_detail(&mut self, type_url: &str, value: &[u8]) {
        let Ok(json) = serde_json::from_slice::<Value>(value) else { return };
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        match type_url {
            "github.com/moby/buildkit/errdefs.Source+json" if self.excerpt.is_none() => {
                self.excerpt = excerpt_of(&json);
            }
            "rbuild/errors.Fault+json" => self.code = text("code"),
            "rbuild/errors.Hint+json" => self.hints.extend(text("text")),
            _ => {}
        }
    }

    /// The whole text, ready for standard error.
    pub(crate) fn render(&self) -> String {
        if self.told {
            return String::new();
        }
        let code = self.code.as_ref().map_or_else(String::new, |code| format!("[{}]", printable(code)));
        let mut text = format!("error{code}: {}\n", printable(&self.message));
        if let Some(excerpt) = &self.excerpt {
            text.push_str(excerpt);
        }
        for hint in &self.hints {
            // Writing to a string cannot fail.
            let _ok = writeln!(text, "hint: {}", printable(hint)).is_ok();
        }
        text
    }
}

/// A daemon passes on what registries and frontends say: nothing that a terminal acts on gets through.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The whole chain of causes: the outermost text of a transport error says nothing.
pub(crate) fn with_causes(text: &str, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = text.to_owned();
    while let Some(error) = cause {
        let own = in_words(error.to_string());
        if !text.to_lowercase().contains(&own.to_lowercase()) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    text
}

/// An error of the system in its own words, without its number.
pub(crate) fn os_text(error: &std::io::Error) -> String {
    in_words(error.to_string())
}

fn in_words(text: String) -> String {
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self::new(os_text(&error)).fault(Fault::LocalFile)
    }
}

impl From<tonic::Status> for CommandError {
    fn from(status: tonic::Status) -> Self {
        Self::from_status(&status)
    }
}

/// Lines around the failing instruction, the instruction itself marked.
fn excerpt_of(json: &Value) -> Option<String> {
    use base64::Engine as _;
    let info = json.get("info")?;
    let data = base64::engine::general_purpose::STANDARD.decode(info.get("data")?.as_str()?).ok()?;
    let name = info.get("filename").and_then(Value::as_str).unwrap_or("Dockerfile");
    excerpt(name, &String::from_utf8_lossy(&data), &marks(json.get("ranges")?), Look::Pointed)
}

/// The lines that a finding is about, as upstream's clients print them.
pub(crate) fn framed(name: &str, text: &str, ranges: &Value) -> Option<String> {
    excerpt(name, text, &marks(ranges), Look::Framed)
}

/// Ranges as JSON has them.
fn marks(ranges: &Value) -> Vec<Mark> {
    let number = |range: &Value, end: &str, of: &str| range.get(end)?.get(of)?.as_i64();
    let marks = ranges.as_array().into_iter().flatten().filter_map(|range| {
        let first = number(range, "start", "line")?;
        let columns = (number(range, "start", "character"), number(range, "end", "character"));
        let columns = (columns.0.unwrap_or(0), columns.1.unwrap_or(0));
        Mark::new(first, number(range, "end", "line").unwrap_or(first), columns)
    });
    marks.collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn any(type_url: &str, value: &Value) -> prost_types::Any {
        prost_types::Any { type_url: type_url.into(), value: value.to_string().into_bytes() }
    }

    #[test]
    fn an_error_of_the_daemon_has_code_excerpt_and_hint() {
        let data =
            base64::engine::general_purpose::STANDARD.encode("FROM a AS build\nCOPY --from=buidl /a /b\n");
        let range =
            serde_json::json!({"start": {"line": 2, "character": 12}, "end": {"line": 2, "character": 17}});
        let source = serde_json::json!({"info": {"filename": "Dockerfile", "data": data}, "ranges": [range]});
        let rpc = RpcStatus {
            details: vec![
                any("rbuild/errors.Fault+json", &serde_json::json!({"code": "D007"})),
                any("github.com/moby/buildkit/errdefs.Source+json", &source),
                any("rbuild/errors.Hint+json", &serde_json::json!({"text": "stage `build` is on line 1"})),
                any("somebody/else+json", &serde_json::json!({})),
            ],
            ..RpcStatus::default()
        };
        let status = tonic::Status::with_details(
            tonic::Code::Unknown,
            "no stage is called `buidl`",
            rpc.encode_to_vec().into(),
        );
        assert_eq!(
            CommandError::from_status(&status).render(),
            "error[D007]: no stage is called `buidl`\n  --> Dockerfile:2:13\n   1 |     FROM a AS build\n   2 | >>> COPY \
             --from=buidl /a /b\n     |                 ^^^^^\nhint: stage `build` is on line 1\n"
        );
    }

    #[test]
    fn what_a_terminal_acts_on_is_taken_out() {
        let error = CommandError::new("a\u{1b}]0;x\u{7}b\nc").hint("\u{9b}31m");
        assert_eq!(error.render(), "error: a]0;xb\nc\nhint: 31m\n");
    }

    #[test]
    fn causes_that_say_the_same_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let error =
            Layer("connect", Some(Box::new(Layer("connect", Some(Box::new(Layer("refused", None)))))));
        assert_eq!(with_causes("transport error", Some(&error)), "transport error: connect: refused");
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(with_causes("dialling", Some(&refused)), "dialling: connection refused");
        assert_eq!(with_causes("Connection refused", Some(&refused)), "Connection refused");
    }
}
