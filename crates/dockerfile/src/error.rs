use rbuild_frontend::{BuildError, Detail, ErrorCode, Fault};
use rbuild_llb::SourceLocation;

use crate::source::{Lines, Source};

/// Why a Dockerfile can't be compiled, and which lines say so.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    message: String,
    lines: Option<Lines>,
    /// The word of these lines that is wrong, as it is written.
    word: Option<String>,
    fault: Option<Fault>,
    hints: Vec<String>,
    /// What the daemon said, when it is its error rather than the file's.
    cause: Option<Box<BuildError>>,
}

impl CompileError {
    /// An error of the whole file or request.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message, lines: None, word: None, fault: None, hints: Vec::new(), cause: None }
    }

    /// An error of these lines.
    pub(crate) fn at(lines: Lines, message: impl Into<String>) -> Self {
        Self { lines: Some(lines), ..Self::new(message) }
    }

    /// An error in the syntax of an instruction; the text begins as tools expect it.
    pub(crate) fn syntax(lines: Lines, message: impl std::fmt::Display) -> Self {
        Self::at(lines, format!("{}{message}", syntax_prefix(lines)))
    }

    /// Says which of the known failures it is. Who knows first knows best: a later word is ignored.
    #[must_use]
    pub(crate) fn fault(mut self, fault: Fault) -> Self {
        self.fault.get_or_insert(fault);
        self
    }

    /// Says which word of the lines is wrong, as it is written there.
    #[must_use]
    pub(crate) fn word(mut self, word: impl Into<String>) -> Self {
        self.word.get_or_insert(word.into());
        self
    }

    /// Adds what can be done about it, in a sentence.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the lines if none are known yet.
    #[must_use]
    pub(crate) fn or_at(mut self, lines: Lines) -> Self {
        self.lines.get_or_insert(lines);
        self
    }

    /// Points at other lines: those that name where the text came from. Lines of that text are no longer told.
    #[must_use]
    pub(crate) fn moved_to(self, lines: Lines) -> Self {
        let prefix = self.lines.map(syntax_prefix).unwrap_or_default();
        let message = self.message.strip_prefix(&prefix).unwrap_or(&self.message).to_owned();
        Self { message, lines: Some(lines), ..self }
    }

    /// Which lines of the Dockerfile are wrong, counted from 1: first and last.
    pub fn lines(&self) -> Option<(u32, u32)> {
        self.lines.map(|lines| (lines.first, lines.last))
    }

    /// Which of the known failures it is.
    pub fn known_fault(&self) -> Option<Fault> {
        self.fault
    }

    /// As an error of a build, pointing into `source`.
    pub(crate) fn into_build_error(self, source: &Source) -> BuildError {
        let mut error = match self.cause {
            Some(cause) => BuildError { message: self.message, ..*cause },
            None => BuildError::new(ErrorCode::InvalidArgument, self.message),
        };
        let has_source = error.details.iter().any(|detail| matches!(detail, Detail::Source(_)));
        if let (Some(lines), false) = (self.lines, has_source) {
            let ranges = source.ranges(lines, self.word.as_deref());
            error = error.with(Detail::Source(SourceLocation { info: source.info.clone(), ranges }));
        }
        if let Some(fault) = self.fault {
            error = error.fault(fault);
        }
        self.hints.into_iter().fold(error, BuildError::hint)
    }
}

fn syntax_prefix(lines: Lines) -> String {
    format!("dockerfile parse error on line {}: ", lines.first)
}

impl From<BuildError> for CompileError {
    fn from(error: BuildError) -> Self {
        Self { cause: Some(Box::new(error.clone())), ..Self::new(error.message) }
    }
}
