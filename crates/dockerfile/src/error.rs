use rbuild_frontend::{BuildError, Detail, ErrorCode};
use rbuild_llb::SourceLocation;

use crate::source::{Lines, Source};

/// Why a Dockerfile can't be compiled, and which lines say so.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    message: String,
    lines: Option<Lines>,
    /// What the daemon said, when it is its error rather than the file's.
    cause: Option<Box<BuildError>>,
}

impl CompileError {
    /// An error of the whole file or request.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), lines: None, cause: None }
    }

    /// An error of these lines.
    pub(crate) fn at(lines: Lines, message: impl Into<String>) -> Self {
        Self { message: message.into(), lines: Some(lines), cause: None }
    }

    /// An error in the syntax of an instruction; the text begins as tools expect it.
    pub(crate) fn syntax(lines: Lines, message: impl std::fmt::Display) -> Self {
        Self::at(lines, format!("{}{message}", syntax_prefix(lines)))
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

    /// As an error of a build, pointing into `source`.
    pub(crate) fn into_build_error(self, source: &Source) -> BuildError {
        let error = match self.cause {
            Some(cause) => BuildError { message: self.message, ..*cause },
            None => BuildError::new(ErrorCode::InvalidArgument, self.message),
        };
        let has_source = error.details.iter().any(|detail| matches!(detail, Detail::Source(_)));
        match self.lines {
            Some(lines) if !has_source => {
                let location = SourceLocation { info: source.info.clone(), ranges: lines.ranges() };
                error.with(Detail::Source(location))
            }
            _ => error,
        }
    }
}

fn syntax_prefix(lines: Lines) -> String {
    format!("dockerfile parse error on line {}: ", lines.first)
}

impl From<BuildError> for CompileError {
    fn from(error: BuildError) -> Self {
        Self { message: error.message.clone(), lines: None, cause: Some(Box::new(error)) }
    }
}
