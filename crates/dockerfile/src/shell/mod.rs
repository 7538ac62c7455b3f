//! Words and variables as Dockerfiles know them: a small part of what a shell does, with its own rules for
//! quotes and escapes. Nothing here runs anything.

mod budget;
mod error;
mod expand;
mod pattern;
#[cfg(test)]
mod tests;

pub(crate) use budget::Budget;
pub(crate) use error::ExpandError;
pub(crate) use expand::{Expansion, Lexer};

/// Where variables come from.
pub(crate) trait Variables {
    /// The value of a variable; `None` if it is not set.
    fn get(&self, name: &str) -> Option<&str>;
    /// All names, for hints.
    fn names(&self) -> Vec<&str>;
}

/// No variables at all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unset;

impl Variables for Unset {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}
