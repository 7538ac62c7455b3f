use percent_encoding::percent_decode_str;
use rbuild_digest::Digest;
use rbuild_llb::git::GitUrl;
use rbuild_llb::{Constraints, CopyAction, FileActions, GitOptions, HttpOptions, State};

use super::copy::{Expanded, copy_path};
use super::paths;
use super::stage::{StageLowering, with_command};
use crate::parse::CopyCommand;
use crate::plan::Step;
use crate::{CompileError, text};

/// What a source of ADD or COPY is.
pub(super) enum Source {
    /// Files of the context or of a stage.
    Local,
    /// A file that is fetched.
    Http,
    /// A repository.
    Git(Box<GitUrl>),
}

impl Source {
    /// Tells by the text. Errors: it is the address of a repository, but no good one.
    pub(super) fn of(source: &str) -> Result<Self, CompileError> {
        match GitUrl::parse(source) {
            Ok(Some(url)) if !url.looks_local => return Ok(Self::Git(Box::new(url))),
            Err(error) if !source.starts_with("github.com/") => {
                return Err(CompileError::new(error.to_string()));
            }
            _ => {}
        }
        let http = source.starts_with("http://") || source.starts_with("https://");
        Ok(if http { Self::Http } else { Self::Local })
    }

    /// Refuses what COPY does not fetch.
    pub(super) fn check_copied(source: &str) -> Result<(), CompileError> {
        match Self::of(source) {
            Ok(Self::Local) => Ok(()),
            Ok(Self::Http) => Err(CompileError::new("source can't be a URL for COPY")),
            Ok(Self::Git(_)) | Err(_) => Err(CompileError::new("source can't be a git ref for COPY")),
        }
    }
}

impl StageLowering<'_, '_> {
    /// One source of ADD.
    pub(super) fn add_source(
        &self,
        actions: FileActions,
        step: &Step,
        copy: &CopyCommand,
        expanded: &Expanded,
        (source, files): (&str, &State),
    ) -> Result<FileActions, CompileError> {
        match Source::of(source)? {
            Source::Git(url) => self.clone_repository(actions, step, copy, expanded, &url),
            Source::Http => self.download(actions, step, copy, expanded, source),
            Source::Local if !expanded.checksum.is_empty() => {
                Err(CompileError::new("checksum requires HTTP(S) or Git sources"))
            }
            Source::Local => {
                self.check_ignored(step, "Add", source);
                Ok(copy_path(actions, copy, expanded, (source, files), true))
            }
        }
    }

    /// A source that is a repository.
    fn clone_repository(
        &self,
        actions: FileActions,
        step: &Step,
        copy: &CopyCommand,
        expanded: &Expanded,
        url: &GitUrl,
    ) -> Result<FileActions, CompileError> {
        let constraints = Constraints::default().custom_name(self.step_name(step, ""));
        let mut options = GitOptions { constraints, ..GitOptions::of(url) };
        if let Some(keep) = copy.keep_git_dir {
            if url.options.keep_git_dir.is_some_and(|asked| asked != keep) {
                return Err(CompileError::new("inconsistent keep-git-dir configuration"));
            }
            options.keep_git_dir = keep;
        }
        if !expanded.checksum.is_empty() {
            if url.options.checksum.as_ref().is_some_and(|asked| *asked != expanded.checksum) {
                let (given, asked) = (text::quote(&expanded.checksum), text::quote(&options.checksum));
                return Err(CompileError::new(format!("checksum mismatch {given} != {asked}")));
            }
            options.checksum.clone_from(&expanded.checksum);
        }
        let action = CopyAction { src: "/".to_owned(), ..expanded.action() };
        Ok(actions.copy(&State::git(url, options), action))
    }

    /// A source that is fetched over HTTP.
    fn download(
        &self,
        actions: FileActions,
        step: &Step,
        copy: &CopyCommand,
        expanded: &Expanded,
        url: &str,
    ) -> Result<FileActions, CompileError> {
        let checksum = match expanded.checksum.as_str() {
            "" => None,
            text => {
                Some(Digest::parse(text).map_err(|_| CompileError::new("invalid checksum digest format"))?)
            }
        };
        let parsed = url::Url::parse(url)
            .map_err(|error| CompileError::new(format!("invalid URL {}: {error}", text::quote(url))))?;
        let path = percent_decode_str(parsed.path()).decode_utf8_lossy();
        let filename = match paths::base(&path) {
            "." | "/" => "__unnamed__".to_owned(),
            base => base.to_owned(),
        };
        let constraints = with_command(Constraints::default().custom_name(self.step_name(step, "")), "");
        let options =
            HttpOptions { checksum, filename: filename.clone(), constraints, ..HttpOptions::default() };
        let fetched = State::http(url, options);
        let action = CopyAction {
            src: format!("/{filename}"),
            attempt_unpack: copy.unpack.unwrap_or(false),
            ..expanded.action()
        };
        Ok(actions.copy(&fetched, action))
    }
}
