//! First pass: bytes to instructions with their lines. Knows the syntax of every instruction and nothing of
//! what they do; variables stay as they are written.

mod command;
mod directive;
mod flags;
mod heredoc;
mod lines;
mod node;
mod stage;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use command::{
    ArgCommand, Command, CopyCommand, HealthCommand, Inline, Pair, RunCommand, ShellForm, parse_command,
};
pub(crate) use directive::{detect_syntax, directives};
pub(crate) use heredoc::is_heredoc;
pub(crate) use node::{is_legacy_pair, parse_nodes, parse_trigger};
pub(crate) use stage::{FromCommand, GlobalArg, Instruction, Parsed, StageSource, parse_stages};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod inner {
    //! What only the claims of fuzz targets look at.
    pub(crate) use super::heredoc::Heredoc;
    pub(crate) use super::node::{Node, NodeArgs};
    pub(crate) use super::words::quoted_fields;
}

use rbuild_frontend::Fault;

use crate::CompileError;
use crate::lint::Linter;

/// Parses a whole Dockerfile.
pub(crate) fn parse(text: &[u8], lint: &Linter) -> Result<Parsed, CompileError> {
    let parsed = parse_nodes(text).and_then(|file| parse_stages(file, lint));
    parsed.map_err(|error| error.fault(Fault::Syntax))
}
