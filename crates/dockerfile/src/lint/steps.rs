use rbuild_patterns::PatternSet;

use super::{Linter, Lookups, rules};
use crate::parse::{self, Instruction};
use crate::source::Lines;
use crate::text;

/// Variables that an instruction uses and that nobody set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Undefined;

impl Undefined {
    /// Reports what was looked for in vain.
    pub(crate) fn check(lint: &Linter, lookups: &Lookups<'_>, declared: impl Fn(&str) -> bool, lines: Lines) {
        if !lint.wants(&rules::UNDEFINED_VAR) {
            return;
        }
        for name in lookups.missed().into_iter().filter(|name| !declared(name)) {
            lint.report(&rules::UNDEFINED_VAR, lines, || {
                format!("Usage of undefined variable '${name}'{}", lookups.hint(&name, "$"))
            });
        }
    }
}

/// What the checks know of the instructions above, within one stage.
#[derive(Debug, Clone, Default)]
pub(crate) struct StageLint {
    cmd: Option<Lines>,
    entrypoint: Option<Lines>,
    healthcheck: Option<Lines>,
    /// A WORKDIR came already, here or in the stage below.
    has_workdir: bool,
}

impl StageLint {
    /// For a stage that is based on the one that this belongs to.
    pub(crate) fn based_on(&self) -> Self {
        Self { has_workdir: self.has_workdir, ..Self::default() }
    }

    /// CMD, ENTRYPOINT or HEALTHCHECK: only the last one counts.
    pub(crate) fn single(&mut self, lint: &Linter, keyword: &'static str, lines: Lines) {
        let before = match keyword {
            "CMD" => &mut self.cmd,
            "ENTRYPOINT" => &mut self.entrypoint,
            _ => &mut self.healthcheck,
        };
        if let Some(before) = before.replace(lines) {
            lint.report(&rules::MULTIPLE_INSTRUCTIONS_DISALLOWED, before, || {
                format!(
                    "Multiple {keyword} instructions should not be used in the same stage because only the last one \
                     will be used"
                )
            });
        }
    }

    /// WORKDIR: the first one should not depend on the base.
    pub(crate) fn workdir(&mut self, lint: &Linter, path: &str, lines: Lines) {
        if !std::mem::replace(&mut self.has_workdir, true) && !path.starts_with('/') {
            lint.report(&rules::WORKDIR_RELATIVE_PATH, lines, || {
                let shown = text::quote(path);
                format!("Relative workdir {shown} can have unexpected results if the base image changes")
            });
        }
    }
}

impl Linter {
    /// A command that goes through a shell that nobody chose.
    pub(crate) fn shell_form(&self, keyword: &str, lines: Lines) {
        self.report(&rules::JSON_ARGS_RECOMMENDED, lines, || {
            format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals")
        });
    }

    /// ENV and LABEL without `=`.
    pub(crate) fn pairs(&self, keyword: &str, instruction: &Instruction, escape: char) {
        if self.wants(&rules::LEGACY_KEY_VALUE_FORMAT) && parse::is_legacy_pair(&instruction.original, escape)
        {
            self.report(&rules::LEGACY_KEY_VALUE_FORMAT, instruction.lines, || {
                format!(
                    "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                )
            });
        }
    }

    /// A variable's name that sounds like a secret.
    pub(crate) fn secret_name(&self, keyword: &str, name: &str, lines: Lines) {
        if is_secret(name) {
            self.report(&rules::SECRETS_USED_IN_ARG_OR_ENV, lines, || {
                let shown = text::quote(name);
                format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {shown})")
            });
        }
    }

    /// A word of EXPOSE.
    pub(crate) fn port(&self, port: &str, lines: Lines) {
        let protocol = port.split_once('/').map_or("", |(_, protocol)| protocol);
        if protocol.to_lowercase() != protocol {
            self.report(&rules::EXPOSE_PROTO_CASING, lines, || {
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase")
            });
        }
        if port.contains(':') {
            self.report(&rules::EXPOSE_INVALID_FORMAT, lines, || {
                format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                )
            });
        }
    }

    /// A source in the context that the ignore file leaves out. `path`: as short as it can be.
    pub(crate) fn context_path(&self, keyword: &str, path: &str, ignored: &PatternSet, lines: Lines) {
        // With exceptions only the files themselves tell what is left.
        if self.wants(&rules::COPY_IGNORED_FILE) && !ignored.has_negation() && ignored.matches(path) {
            self.report(&rules::COPY_IGNORED_FILE, lines, || {
                let shown = text::quote(path);
                format!("Attempting to {keyword} file {shown} that is excluded by .dockerignore")
            });
        }
    }
}

/// Whether a part of the name, between underscores, is one of the usual words, and none says that it is public.
fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let name = name.to_lowercase();
    let is = |word: &str| name.split('_').any(|part| part == word);
    !is("public") && SECRET.iter().any(|word| is(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_parts_of_names_sound_like_secrets() {
        for secret in ["KEY", "my_Token", "ACCESS_KEY_ID", "apiKey", "X_KEY_"] {
            assert!(is_secret(secret), "{secret}");
        }
        for other in ["MONKEY", "tokens", "PUBLIC_KEY", "AUTHOR", "foo-secret", "PASS"] {
            assert!(!is_secret(other), "{other}");
        }
    }
}
