use super::rules::decoded;
use super::{GitUrlError, check_git_ref, rules};

/// What the query of an address asks for besides ref and subdirectory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitUrlOptions {
    /// The expected commit (`checksum` or `commit`).
    pub checksum: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: Option<bool>,
    /// Fetch submodules.
    pub submodules: Option<bool>,
    /// Times of files are that of the commit instead of that of the checkout.
    pub commit_mtime: bool,
    /// Trust `checksum` without asking what the ref is.
    pub fetch_by_commit: bool,
}

/// The query of an address.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) git_ref: Option<String>,
    branch: Option<String>,
    tag: Option<String>,
    pub(super) subdir: Option<String>,
    pub(super) options: GitUrlOptions,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, GitUrlError> {
        let mut query = Self::default();
        let mut seen = Vec::new();
        for (name, value) in pairs(text) {
            if seen.contains(&name) {
                return Err(GitUrlError::ManyValues(name));
            }
            query.set(&name, value)?;
            seen.push(name);
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), GitUrlError> {
        let options = &mut self.options;
        match name {
            "submodules" => options.submodules = Some(boolean("submodules", value)?),
            "keep-git-dir" => options.keep_git_dir = Some(boolean("keep-git-dir", value)?),
            "fetch-by-commit" => options.fetch_by_commit = boolean("fetch-by-commit", value)?,
            _ if value.is_empty() => return Err(GitUrlError::NoValue(name.to_owned())),
            "ref" => self.git_ref = Some(value),
            "branch" => self.branch = Some(prefixed("refs/heads/", &value)),
            "tag" => self.tag = Some(prefixed("refs/tags/", &value)),
            "subdir" => self.subdir = Some(rules::clean_subdir(&value)?),
            "checksum" | "commit" => agree("checksum", &mut options.checksum, value)?,
            "mtime" => options.commit_mtime = commit_mtime(value)?,
            _ => return Err(GitUrlError::UnknownQuery(name.to_owned())),
        }
        Ok(())
    }

    /// The ref, of which the fragment may have named one.
    pub(super) fn reference(&mut self, fragment: &str) -> Result<String, GitUrlError> {
        if self.branch.is_some() && self.tag.is_some() {
            return Err(GitUrlError::BranchAndTag);
        }
        let mut chosen = (!fragment.is_empty()).then(|| fragment.to_owned());
        for named in [&mut self.git_ref, &mut self.branch, &mut self.tag] {
            if let Some(named) = named.take() {
                agree("ref", &mut chosen, named)?;
            }
        }
        let chosen = chosen.unwrap_or_default();
        check_git_ref(&chosen)?;
        Ok(chosen)
    }

    /// The subdirectory, of which the fragment may have named one.
    pub(super) fn directory(&mut self, fragment: &str) -> Result<String, GitUrlError> {
        let named = rules::clean_subdir(fragment)?;
        let mut chosen = (!named.is_empty()).then_some(named);
        if let Some(named) = self.subdir.take() {
            agree("subdir", &mut chosen, named)?;
        }
        Ok(chosen.unwrap_or_default())
    }
}

/// Names and values by the rules of forms; pairs that can't be decoded are left out, as upstream does.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
    pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?))
    })
}

fn prefixed(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// Sets what isn't set, and refuses what is set to something else.
fn agree(what: &'static str, chosen: &mut Option<String>, named: String) -> Result<(), GitUrlError> {
    match chosen.take() {
        Some(first) if first != named => Err(GitUrlError::Conflict { what, first, second: named }),
        _ => {
            *chosen = Some(named);
            Ok(())
        }
    }
}

/// A bare name is true.
fn boolean(name: &'static str, value: String) -> Result<bool, GitUrlError> {
    match value.as_str() {
        "" | "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(GitUrlError::Value { name, value, hint: "" }),
    }
}

fn commit_mtime(value: String) -> Result<bool, GitUrlError> {
    match value.as_str() {
        "commit" => Ok(true),
        "checkout" => Ok(false),
        _ => {
            let hint = " (must be \"checkout\" or \"commit\")";
            Err(GitUrlError::Value { name: "mtime", value, hint })
        }
    }
}
