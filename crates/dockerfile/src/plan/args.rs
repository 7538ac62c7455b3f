use std::collections::BTreeMap;

use rbuild_oci::Platform;

use crate::parse::Parsed;
use crate::shell::{Budget, Lexer, Variables};
use crate::{CompileError, CompileOptions};

/// ARGs before the first FROM, and those that are always there.
#[derive(Debug, Clone, Default)]
pub(crate) struct GlobalArgs {
    values: BTreeMap<String, String>,
}

impl Variables for GlobalArgs {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
    fn names(&self) -> Vec<&str> {
        self.values.keys().map(String::as_str).collect()
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
        let lexer = Lexer::new(parsed.directives.escape);
        for command in &parsed.global_args {
            for arg in &command.args {
                let expand = |text: &str| {
                    let expanded = lexer.expand(text, &args, budget);
                    expanded.map(|e| e.text).map_err(|message| CompileError::at(command.lines, message))
                };
                let name = expand(&arg.name)?;
                let default = arg.default.as_deref().map(expand).transpose()?;
                let value = options.build_args.get(&name).cloned().or(default);
                if let Some(value) = value {
                    args.values.insert(name, value);
                }
            }
        }
        Ok(args)
    }
}
