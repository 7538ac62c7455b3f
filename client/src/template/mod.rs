//! The part of Go's `text/template` that `--format` needs: fields, `range`, `if`, `with`, variables, comparisons,
//! `index`, `len`, `print`, `printf`, `json`.
//!
//! Central type: [`Template`], parsed once and run over a [`Value`]. It does not know what the values are about. What
//! it does not support is an error that names it; structures are printed through `json` or field by field only, since
//! how Go prints them whole says nothing to a script.
//!
//! Source: the documentation of Go's package text/template.

mod eval;
mod lex;
mod parse;
mod value;

pub(crate) use value::{Map, Shown, Value};

use parse::Node;

/// A template, ready to run.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TemplateError {
    #[error("template: unclosed action")]
    Unclosed,
    #[error("template: unexpected {found} in an action")]
    Unexpected { found: String },
    #[error("template: `{keyword}` has no `end`")]
    NoEnd { keyword: &'static str },
    #[error("template: `{keyword}` without its `if`, `range` or `with`")]
    Stray { keyword: String },
    #[error("template: `{what}` is not supported")]
    Unsupported { what: String },
    #[error("template: function \"{name}\" not defined")]
    Function { name: String },
    #[error("template: {function}: {reason}")]
    Arguments { function: String, reason: String },
    #[error("template: variable ${name} is not defined")]
    Variable { name: String },
    #[error("template: there is no field `{field}` here, only {known}")]
    Field { field: String, known: String },
    #[error("template: a structure cannot be printed: print one of its fields, or all as {{{{json …}}}}")]
    Structure,
    #[error("template: nested too deep")]
    TooDeep,
}

impl Template {
    /// Errors: what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(text)? })
    }

    /// Whether running it may look at this field of the root, be it as a part of the whole. Errs on the side of yes.
    pub(crate) fn uses(&self, field: &str) -> bool {
        parse::mention(&self.nodes, field, true)
    }

    /// Whether the field is asked for by its name.
    pub(crate) fn names(&self, field: &str) -> bool {
        parse::mention(&self.nodes, field, false)
    }

    /// What it prints for `root`.
    pub(crate) fn run(&self, root: &Value) -> Result<String, TemplateError> {
        eval::run(&self.nodes, root)
    }
}

#[cfg(test)]
mod tests;
