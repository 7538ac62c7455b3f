use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::shell::Variables;
use crate::suggest;

/// Names that are compared with a mistyped one: the search is for people's files.
const MAX_COMPARED: usize = 1_000;

/// Variables that remember who was asked for.
pub(crate) struct Lookups<'a> {
    variables: &'a dyn Variables,
    found: RefCell<BTreeSet<String>>,
    missed: RefCell<BTreeSet<String>>,
}

impl<'a> Lookups<'a> {
    pub(crate) fn new(variables: &'a dyn Variables) -> Self {
        Self { variables, found: RefCell::default(), missed: RefCell::default() }
    }

    /// The names that have a value.
    pub(crate) fn found(&self) -> BTreeSet<String> {
        self.found.borrow().clone()
    }

    /// The names that have none.
    pub(crate) fn missed(&self) -> BTreeSet<String> {
        self.missed.borrow().clone()
    }

    /// ` (did you mean X?)` for a name that has no value, or nothing; `mark` stands before X.
    pub(crate) fn hint(&self, name: &str, mark: &str) -> String {
        let names = self.variables.names().into_iter().take(MAX_COMPARED);
        suggest::nearest(name, names, true)
            .map_or_else(String::new, |near| format!(" (did you mean {mark}{near}?)"))
    }
}

impl Variables for Lookups<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name);
        let seen = if value.is_some() { &self.found } else { &self.missed };
        if !seen.borrow().contains(name) {
            seen.borrow_mut().insert(name.to_owned());
        }
        value
    }

    fn names(&self) -> Vec<&str> {
        self.variables.names()
    }
}
