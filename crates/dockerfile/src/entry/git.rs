//! Contexts that are git repositories.

use rbuild_frontend::BuildError;
use rbuild_llb::git::GitUrl;
use rbuild_llb::{Constraints, GitOptions, State};

/// The repository that a context names. `keep_git_dir`: whatever its address says, `.git` is kept.
///
/// Errors: it is no good address of a repository.
pub(super) fn state(context: &str, keep_git_dir: bool) -> Result<State, BuildError> {
    let url = GitUrl::parse(context).map_err(|error| BuildError::invalid(error.to_string()))?;
    let url = url.ok_or_else(|| BuildError::invalid("the build context is no git repository"))?;
    let step = format!("[internal] load git source {}", without_login(context));
    let mut options = GitOptions::of(&url);
    options.keep_git_dir |= keep_git_dir;
    options.constraints = Constraints::default().custom_name(step);
    Ok(State::git(&url, options))
}

/// Whether the option wants `.git`: as upstream, a word that is no boolean does not.
pub(super) fn keeps_git_dir(option: Option<&String>) -> bool {
    matches!(option.map(String::as_str), Some("1" | "t" | "T" | "true" | "True" | "TRUE"))
}

/// The address without user and password, which upstream would show. Those of ssh are no secret.
fn without_login(context: &str) -> String {
    let Some((scheme, rest)) = context.split_once("://") else { return context.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = login.split(':').next().unwrap_or_default();
    match scheme.eq_ignore_ascii_case("ssh") && !user.is_empty() {
        true => format!("{scheme}://{user}@{host}{path}"),
        false => format!("{scheme}://{host}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_repositories_are_not_shown() {
        for (context, shown) in [
            ("https://u:pw@h/r.git#main:d", "https://h/r.git#main:d"),
            ("https://token@h/r.git?ref=a@b", "https://h/r.git?ref=a@b"),
            ("ssh://git:pw@h:22/r", "ssh://git@h:22/r"),
            ("git@h:r#x", "git@h:r#x"),
            ("https://h/a@b.git", "https://h/a@b.git"),
        ] {
            assert_eq!(without_login(context), shown);
        }
    }
}
