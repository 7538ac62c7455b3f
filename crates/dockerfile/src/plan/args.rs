use std::collections::{BTreeMap, BTreeSet};

use rbuild_oci::Platform;

use crate::lint::{Lookups, describes};
use crate::parse::{GlobalArg, Parsed};
use crate::shell::{Budget, ExpandError, Lexer, Variables};
use crate::source::Lines;
use crate::{CompileError, CompileOptions};

/// ARGs before the first FROM, and those that are always there.
#[derive(Debug, Clone, Default)]
pub(crate) struct GlobalArgs {
    values: BTreeMap<String, String>,
    /// The values if the request gave none.
    defaults: BTreeMap<String, String>,
    /// The names of those of the file, with a value or not.
    declared: BTreeSet<String>,
    /// Where those with a value stand.
    places: BTreeMap<String, GlobalPlace>,
}

/// Where an ARG before the first FROM stands.
#[derive(Debug, Clone)]
pub(crate) struct GlobalPlace {
    pub(crate) lines: Lines,
    /// What the comment above says of it.
    pub(crate) description: String,
    /// Other ARGs that its value was made of.
    pub(crate) made_of: BTreeSet<String>,
}

/// Values without those of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults<'a>(&'a GlobalArgs);

impl Variables for Defaults<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.defaults.get(name).map(String::as_str)
    }
    fn names(&self) -> Vec<&str> {
        self.0.defaults.keys().map(String::as_str).collect()
    }
}

impl Variables for GlobalArgs {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
    fn names(&self) -> Vec<&str> {
        let valueless = self.declared.iter().filter(|name| !self.values.contains_key(*name));
        self.values.keys().chain(valueless).map(String::as_str).collect()
    }
}

fn platform_args(prefix: &str, platform: &Platform) -> [(String, String); 4] {
    let shown = Platform { os_version: String::new(), ..platform.clone() };
    [
        (format!("{prefix}PLATFORM"), shown.to_string()),
        (format!("{prefix}OS"), platform.os.clone()),
        (format!("{prefix}ARCH"), platform.architecture.clone()),
        (format!("{prefix}VARIANT"), platform.variant.clone()),
    ]
}

impl GlobalArgs {
    /// Evaluates them. Errors: a default can't be expanded.
    pub(crate) fn new(
        parsed: &Parsed,
        options: &CompileOptions,
        budget: &Budget,
    ) -> Result<Self, CompileError> {
        let mut args = Self::default();
        args.values.extend(platform_args("BUILD", &options.build_platform));
        args.values.extend(platform_args("TARGET", &options.target_platform));
        let target = if options.target.is_empty() { "default" } else { &options.target };
        args.values.insert("TARGETSTAGE".to_owned(), target.to_owned());
        for (name, value) in &mut args.values {
            if let Some(given) = options.build_args.get(name) {
                value.clone_from(given);
            }
        }
        args.defaults.clone_from(&args.values);
        let lexer = Lexer::new(parsed.directives.escape);
        for command in &parsed.global_args {
            args.add(command, options, lexer, budget)
                .map_err(|error| CompileError::from(error).or_at(command.lines))?;
        }
        Ok(args)
    }

    fn add(
        &mut self,
        command: &GlobalArg,
        options: &CompileOptions,
        lexer: Lexer,
        budget: &Budget,
    ) -> Result<(), ExpandError> {
        for arg in &command.args {
            // Variables in names are not expanded.
            let name = arg.name.clone();
            self.declared.insert(name.clone());
            let (default, made_of) = match &arg.default {
                None => (None, BTreeSet::new()),
                Some(text) => {
                    let lookups = Lookups::new(self);
                    (Some(lexer.expand(text, &lookups, budget)?.text), lookups.found())
                }
            };
            if let Some(text) = &arg.default
                && let Ok(usual) = lexer.expand(text, &Defaults(self), budget)
            {
                self.defaults.insert(name.clone(), usual.text);
            }
            let given = options.build_args.get(&name).cloned();
            let made_of = if given.is_some() { BTreeSet::new() } else { made_of };
            if let Some(value) = given.or(default) {
                let said = command.comments.iter().find_map(|comment| describes(comment, &name));
                let description = said.unwrap_or_default().to_owned();
                self.places.insert(name.clone(), GlobalPlace { lines: command.lines, description, made_of });
                self.values.insert(name, value);
            }
        }
        Ok(())
    }

    /// Whether the file has an ARG of this name before its first FROM.
    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    /// Where an ARG stands; nothing for one that is always there.
    pub(crate) fn place(&self, name: &str) -> Option<&GlobalPlace> {
        self.places.get(name)
    }

    /// The values as they would be without build arguments.
    pub(crate) fn defaults(&self) -> Defaults<'_> {
        Defaults(self)
    }
}
