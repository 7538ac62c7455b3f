use rbuild_frontend::Fault;

use crate::CompileError;

/// A text with variables cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ExpandError {
    message: String,
    /// The whole text, once it is known.
    written: Option<String>,
    /// The variable that the text insists on.
    required: Option<String>,
}

impl ExpandError {
    /// The text is wrong.
    pub(crate) fn text(message: impl Into<String>) -> Self {
        Self { message: message.into(), written: None, required: None }
    }

    /// The text asks for a variable that is not set (`${name:?why}`).
    pub(crate) fn required(name: &str, message: String) -> Self {
        Self { required: Some(name.to_owned()), ..Self::text(message) }
    }

    /// Names the text that was read.
    pub(crate) fn of(self, written: &str) -> Self {
        let message = format!("failed to process {}: {}", crate::text::quote(written), self.message);
        Self { message, written: Some(written.to_owned()), ..self }
    }
}

impl From<String> for ExpandError {
    fn from(message: String) -> Self {
        Self::text(message)
    }
}

impl From<ExpandError> for CompileError {
    fn from(error: ExpandError) -> Self {
        let mut compile = Self::new(error.message);
        if let Some(written) = error.written {
            compile = compile.word(written);
        }
        match error.required {
            Some(name) => compile.fault(Fault::RequiredVariable).hint(format!(
                "the file insists on a value for `{name}`: pass --build-arg {name}=VALUE if an ARG declares it in this \
                 stage, or set it with ENV"
            )),
            None => compile.fault(Fault::Expansion),
        }
    }
}
