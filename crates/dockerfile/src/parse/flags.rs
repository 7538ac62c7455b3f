use rbuild_frontend::Fault;

use crate::CompileError;
use crate::source::Lines;
use crate::suggest;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// `--name` or `--name=true`.
    Bool,
    /// `--name=value`, once.
    Value,
    /// `--name=value`, any number of times.
    Values,
}

/// The flags of one instruction.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    /// Checks `words` against the flags that the instruction knows.
    pub(crate) fn parse(
        words: &[String],
        known: &[(&'static str, FlagKind)],
        lines: Lines,
    ) -> Result<Self, CompileError> {
        let mut flags = Self::default();
        for word in words {
            let body = word.strip_prefix("--").unwrap_or(word);
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let Some((name, kind)) = known.iter().find(|(known, _)| *known == name).copied() else {
                return Err(unknown(name, known, lines));
            };
            if kind != FlagKind::Values && flags.given.iter().any(|(given, _)| *given == name) {
                let message = format!("duplicate flag specified: --{name}");
                return Err(CompileError::syntax(lines, message).fault(Fault::FlagValue));
            }
            let value = check_value(name, kind, value)
                .map_err(|message| CompileError::syntax(lines, message).fault(Fault::FlagValue).word(word))?;
            flags.given.push((name, value));
        }
        Ok(flags)
    }

    /// The value of a flag.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// The value of a flag, or an empty string.
    pub(crate) fn text(&self, name: &str) -> String {
        self.value(name).unwrap_or_default().to_owned()
    }

    /// All values of a flag.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        self.given.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a flag without value is set.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
}

fn unknown(name: &str, known: &[(&'static str, FlagKind)], lines: Lines) -> CompileError {
    let near = suggest::hint(name, known.iter().map(|(known, _)| *known), true);
    let error = CompileError::syntax(lines, format!("unknown flag: --{name}{near}"))
        .fault(Fault::UnknownFlag)
        .word(format!("--{name}"));
    if known.is_empty() {
        return error.hint("this instruction has no flags");
    }
    let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
    error.hint(format!("flags of this instruction are {}", names.join(", ")))
}

fn check_value(name: &str, kind: FlagKind, value: Option<&str>) -> Result<String, String> {
    match (kind, value) {
        (FlagKind::Bool, None | Some("")) => Ok("true".to_owned()),
        (FlagKind::Bool, Some(value)) => match value.to_lowercase().as_str() {
            flag @ ("true" | "false") => Ok(flag.to_owned()),
            _ => Err(format!("expecting boolean value for flag --{name}, not: {value}")),
        },
        (_, None) => Err(format!("missing a value on flag: --{name}")),
        (_, Some(value)) => Ok(value.to_owned()),
    }
}
