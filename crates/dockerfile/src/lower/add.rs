use rbuild_digest::Digest;
use rbuild_llb::{Constraints, CopyAction, FileActions, HttpOptions, State};

use super::paths;
use super::stage::{StageLowering, with_command};
use crate::CompileError;
use crate::parse::CopyCommand;

/// Whether a source of ADD is fetched.
pub(super) fn is_http(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://")) && !is_git(source)
}

/// Whether a source of ADD is a repository.
fn is_git(source: &str) -> bool {
    let bare = source.split(['#', '?']).next().unwrap_or(source);
    let scheme = |prefix: &str| source.starts_with(prefix);
    let scp = bare
        .split_once(':')
        .is_some_and(|(host, path)| host.contains('@') && !host.contains('/') && !path.starts_with("//"));
    scheme("git://")
        || scheme("ssh://")
        || scp
        || ((scheme("http://") || scheme("https://")) && bare.ends_with(".git"))
        || (scheme("github.com/") && bare.ends_with(".git"))
}

/// Refuses what a source in the context can't have.
pub(super) fn check_local(source: &str, copy: &CopyCommand, add: bool) -> Result<(), CompileError> {
    if add && is_git(source) {
        return Err(CompileError::new(format!(
            "ADD from a git repository is not supported by rbuild yet: `{source}`"
        )));
    }
    if !copy.checksum.is_empty() {
        return Err(CompileError::new("checksum requires HTTP(S) or Git sources"));
    }
    Ok(())
}

impl StageLowering<'_, '_> {
    /// A source that is fetched over HTTP.
    pub(super) fn download(
        &self,
        actions: FileActions,
        url: &str,
        copy: &CopyCommand,
        common: &CopyAction,
        name: &str,
    ) -> Result<FileActions, CompileError> {
        let checksum = self.expand(&copy.checksum)?;
        let checksum = match checksum.as_str() {
            "" => None,
            text => {
                Some(Digest::parse(text).map_err(|_| CompileError::new("invalid checksum digest format"))?)
            }
        };
        let parsed = url::Url::parse(url).map_err(|error| {
            CompileError::new(format!("invalid URL {}: {error}", crate::text::quote(url)))
        })?;
        let path = percent_decoded(parsed.path());
        let filename = match paths::base(&path) {
            "." | "/" => "__unnamed__".to_owned(),
            base => base.to_owned(),
        };
        let constraints = with_command(Constraints::default().custom_name(name), "");
        let options =
            HttpOptions { checksum, filename: filename.clone(), constraints, ..HttpOptions::default() };
        let fetched = State::http(url, options);
        let action = CopyAction {
            src: format!("/{filename}"),
            attempt_unpack: copy.unpack.unwrap_or(false),
            ..common.clone()
        };
        Ok(actions.copy(&fetched, action))
    }
}

/// `%20` and the like resolved; what is no valid escape stays.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
