//! Which commit a name stands for at its server.

use rbuild_llb::git::check_git_ref;

use super::auth::Access;
use super::question::{Question, is_commit};
use crate::{SourceError, SourceRequest};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) commit: String,
    /// The tag object that leads to the commit.
    pub(super) object: Option<String>,
    /// The full name (`refs/heads/main`), or the commit if it was named.
    pub(super) reference: String,
}

/// Asks the server.
pub(super) async fn resolve(
    access: &Access,
    request: &SourceRequest,
    question: &Question,
) -> Result<Found, SourceError> {
    let url = question.remote.git_url();
    let name = question.git_ref.as_str();
    if name.is_empty() || name == "HEAD" {
        let output = access.git().ask(request, &["ls-remote", "--symref", "--", url, "HEAD"]).await?;
        return default_branch(&output).map_err(|reason| question.remote.invalid(reason));
    }
    let peeled = format!("{name}^{{}}");
    let output = access.git().ask(request, &["ls-remote", "--", url, name, &peeled]).await?;
    choose(name, &output)
        .ok_or_else(|| SourceError::NotFound { what: format!("repository does not contain ref {name}: ref") })
}

fn lines(output: &str) -> impl Iterator<Item = (&str, &str)> {
    output.lines().filter_map(|line| line.split_once('\t'))
}

/// The default branch and its commit. What the server calls it is checked like a user's word.
fn default_branch(output: &str) -> Result<Found, String> {
    let mut branch = None;
    let mut commit = None;
    for (left, _) in lines(output).filter(|(_, right)| *right == "HEAD") {
        match left.strip_prefix("ref: ") {
            Some(name) => branch = Some(name),
            None => commit = Some(left),
        }
    }
    let commit = commit.ok_or("the repository has no default branch: name a ref")?;
    if !is_commit(commit) {
        return Err("the server's answer has no commit".into());
    }
    let reference = branch.unwrap_or("HEAD");
    check_git_ref(reference).map_err(|error| error.to_string())?;
    if branch.is_some_and(|name| !name.starts_with("refs/")) {
        return Err(format!("the server's default branch `{}` is no ref", reference.escape_default()));
    }
    Ok(Found { commit: commit.to_owned(), object: None, reference: reference.to_owned() })
}

/// As upstream: a full name is itself; an annotated tag goes before a branch, a branch before a plain tag, and that
/// before other refs.
fn choose(name: &str, output: &str) -> Option<Found> {
    let find = |full: &str| {
        lines(output)
            .find(|(commit, found)| *found == full && is_commit(commit))
            .map(|(commit, _)| commit.to_owned())
    };
    let tagged = |full: String| {
        let commit = find(&format!("{full}^{{}}"))?;
        Some(Found { commit, object: find(&full), reference: full })
    };
    let plain = |full: String| Some(Found { commit: find(&full)?, object: None, reference: full });
    if name.starts_with("refs/") {
        return tagged(name.to_owned()).or_else(|| plain(name.to_owned()));
    }
    let tag = format!("refs/tags/{name}");
    let other = format!("refs/{name}");
    tagged(tag.clone())
        .or_else(|| plain(format!("refs/heads/{name}")))
        .or_else(|| plain(tag))
        .or_else(|| tagged(other.clone()))
        .or_else(|| plain(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[test]
    fn annotated_tags_go_before_branches_and_those_before_plain_tags() {
        let list = [
            (id('1'), "refs/heads/x/both"),
            (id('2'), "refs/heads/both"),
            (id('3'), "refs/tags/both"),
            (id('4'), "refs/heads/ann"),
            (id('5'), "refs/tags/ann"),
            (id('6'), "refs/tags/ann^{}"),
            (id('7'), "refs/pull/42/head"),
            (id('8'), "refs/heads/pull/42/other"),
        ];
        let output: String = list.iter().map(|(commit, name)| format!("{commit}\t{name}\n")).collect();
        for (name, commit, reference) in [
            ("both", '2', "refs/heads/both"),
            ("tags/both", '3', "refs/tags/both"),
            ("refs/tags/both", '3', "refs/tags/both"),
            ("ann", '6', "refs/tags/ann"),
            ("heads/ann", '4', "refs/heads/ann"),
            ("pull/42/head", '7', "refs/pull/42/head"),
        ] {
            let found = choose(name, &output).unwrap();
            assert_eq!((found.commit, found.reference.as_str()), (id(commit), reference), "{name}");
        }
        assert_eq!(choose("ann", &output).unwrap().object, Some(id('5')));
        assert_eq!(choose("other", &output), None);
    }

    #[test]
    fn a_servers_default_branch_is_not_believed() {
        let commit = id('a');
        let good = format!("ref: refs/heads/main\tHEAD\n{commit}\tHEAD\n");
        assert_eq!(default_branch(&good).unwrap().reference, "refs/heads/main");
        let detached = format!("{commit}\tHEAD\n{commit}\trefs/remotes/origin/HEAD\n");
        assert_eq!(default_branch(&detached).unwrap().reference, "HEAD");
        for name in ["--upload-pack=x", "refs/heads/a b", "refs/heads/../x", "main", "refs/heads/x^{}"] {
            let output = format!("ref: {name}\tHEAD\n{commit}\tHEAD\n");
            assert!(default_branch(&output).is_err(), "{name}");
        }
        assert!(default_branch("").is_err());
        assert!(default_branch("--upload-pack=x\tHEAD\n").is_err());
    }
}
