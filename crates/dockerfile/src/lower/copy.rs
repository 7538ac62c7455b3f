use rbuild_llb::{Chmod, Chown, Constraints, CopyAction, FileActions, MkfileAction, State};

use super::add::Source;
use super::paths;
use super::stage::StageLowering;
use crate::CompileError;
use crate::parse::{CopyCommand, Inline};
use crate::plan::{From, Step};
use crate::shell::Lexer;

/// COPY or ADD with its variables expanded.
pub(super) struct Expanded {
    sources: Vec<String>,
    dest: String,
    /// The destination before it was made absolute.
    written: String,
    owner: Option<Chown>,
    mode: Chmod,
    chown: String,
    chmod: String,
    pub(super) checksum: String,
    link: bool,
    excludes: Vec<String>,
}

impl StageLowering<'_, '_> {
    pub(super) fn copy(&mut self, step: &Step, copy: &CopyCommand, add: bool) -> Result<(), CompileError> {
        self.check_from(step, copy)?;
        let name = self.step_name(step, "");
        let expanded = self.expand_copy(copy)?;
        let mut actions = FileActions::new();
        if !expanded.checksum.is_empty() && expanded.sources.len() != 1 {
            return Err(CompileError::new("checksum can't be specified for multiple sources"));
        }
        let files = self.files(step, &expanded.sources)?;
        for source in &expanded.sources {
            actions = if add {
                self.add_source(actions, step, copy, &expanded, (source, &files))?
            } else {
                Source::check_copied(source)?;
                self.check_ignored(step, "Copy", source);
                copy_path(actions, copy, &expanded, (source, &files), false)
            };
        }
        for document in &copy.inline {
            actions = self.copy_document(actions, document, &expanded)?;
        }
        self.put(step, actions, &expanded, name);
        self.commit_copy(copy, &expanded, add);
        Ok(())
    }

    /// A stage named by its number must stand above; one named by its name may stand below.
    fn check_from(&self, step: &Step, copy: &CopyCommand) -> Result<(), CompileError> {
        let Some(number) = copy.from.as_deref().filter(|from| from.bytes().all(|b| b.is_ascii_digit()))
        else {
            return Ok(());
        };
        match step.from.first() {
            Some(From::Stage(id)) if *id > self.id => Err(CompileError::new(format!(
                "cannot copy from stage {}, it needs to be defined before current stage {}",
                crate::text::quote(number),
                crate::text::quote(&self.stage.shown)
            ))),
            _ => Ok(()),
        }
    }

    fn expand_copy(&self, copy: &CopyCommand) -> Result<Expanded, CompileError> {
        let chown = self.expand(&copy.chown)?;
        let chmod = self.expand(&copy.chmod)?;
        let sources = copy.sources.iter().map(|source| self.expand(source));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let mode = parse_mode(&chmod)?;
        let written = self.expand(&copy.dest)?;
        Ok(Expanded {
            sources,
            dest: paths::below(self.built.state.get_dir(), &written),
            written,
            owner: (!chown.is_empty()).then(|| Chown::parse(&chown)),
            // Upstream does not link what changes modes: a symbolic one depends on what is below.
            excludes: copy.excludes.clone(),
            link: copy.link && chmod.is_empty(),
            checksum: self.expand(&copy.checksum)?,
            mode,
            chown,
            chmod,
        })
    }

    /// A path in the context should not be one that the ignore file leaves out.
    pub(super) fn check_ignored(&self, step: &Step, keyword: &str, source: &str) {
        if matches!(step.from.first(), None | Some(From::Context)) {
            self.cx.lint.context_path(keyword, &paths::clean(source), &self.cx.ignored, self.lines);
        }
    }

    /// Where the sources that are not fetched lie.
    fn files(&mut self, step: &Step, sources: &[String]) -> Result<State, CompileError> {
        // Upstream takes a repository over ssh for a path, too; so equal files give equal LLB.
        let web = |source: &&str| source.starts_with("http://") || source.starts_with("https://");
        let paths: Vec<&str> = sources.iter().map(String::as_str).filter(|source| !web(source)).collect();
        self.cx.files(step.from.first().copied().unwrap_or(From::Context), &paths)
    }

    fn copy_document(
        &self,
        actions: FileActions,
        document: &Inline,
        expanded: &Expanded,
    ) -> Result<FileActions, CompileError> {
        let text = if document.expand {
            self.expand_with(Lexer::document(self.escape()), &document.text)?.text
        } else {
            document.text.clone()
        };
        let path = format!("/{}", document.name);
        let file =
            MkfileAction { path: path.clone(), mode: 0o644, data: text.into(), ..MkfileAction::default() };
        let constraints = Constraints::default().custom_name("[internal] preparing inline document");
        let state = State::scratch().file(FileActions::new().mkfile(file), constraints);
        Ok(actions.copy(&state, CopyAction { src: path, ..expanded.action() }))
    }

    /// Performs the actions upon the stage; with `--link` beside it.
    fn put(&mut self, step: &Step, actions: FileActions, expanded: &Expanded, name: String) {
        let before = self.built.state.clone();
        if !expanded.link {
            let constraints = self.constraints(step, name);
            self.built.state = before.file(actions, constraints);
            return;
        }
        let mut constraints = self.constraints(step, name.clone());
        constraints = constraints.progress_group(self.group(&name, true));
        let place = self.place();
        let linked = format!("{place}LINK {}", name.strip_prefix(&place).unwrap_or(&name));
        let merged = self.constraints(step, linked).progress_group(self.group(&name, false));
        let alone = State::scratch().with_environment_of(&before).file(actions, constraints);
        self.built.state = State::merge(&[before.clone(), alone], merged).with_environment_of(&before);
    }

    fn commit_copy(&mut self, copy: &CopyCommand, expanded: &Expanded, add: bool) {
        let mut shown = String::from(if add { "ADD" } else { "COPY" });
        if copy.parents {
            shown.push_str(" --parents");
        }
        if !expanded.chown.is_empty() {
            shown.push_str(&format!(" --chown={}", expanded.chown));
        }
        if !expanded.chmod.is_empty() {
            shown.push_str(&format!(" --chmod={}", expanded.chmod));
        }
        for source in &expanded.sources {
            shown.push(' ');
            shown.push_str(source);
        }
        for document in &copy.inline {
            shown.push_str(&format!(" <<{}", document.name));
        }
        let dest = &expanded.written;
        self.commit(format!("{shown} {dest} # buildkit"), true);
    }
}

impl Expanded {
    /// What all actions of one instruction have in common.
    pub(super) fn action(&self) -> CopyAction {
        CopyAction {
            dest: self.dest.clone(),
            owner: self.owner.clone(),
            mode: self.mode.clone(),
            create_dest_path: true,
            exclude_patterns: self.excludes.clone(),
            ..CopyAction::default()
        }
    }
}

/// Copies a source that is not fetched from where it lies.
pub(super) fn copy_path(
    actions: FileActions,
    copy: &CopyCommand,
    expanded: &Expanded,
    (source, files): (&str, &State),
    add: bool,
) -> FileActions {
    let mut action = CopyAction {
        src: paths::clean_rooted(source),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: add && copy.unpack.unwrap_or(true),
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..expanded.action()
    };
    if copy.parents {
        with_parents(&mut action, source);
    }
    actions.copy(files, action)
}

/// `--parents`: what stands before `/./` is where the copy starts, the rest is kept.
fn with_parents(action: &mut CopyAction, source: &str) {
    let (start, kept) = source.split_once("/./").unwrap_or(("/", source));
    action.src = paths::clean_rooted(start);
    let kept = paths::clean_rooted(kept);
    let kept = kept.trim_start_matches('/');
    if !rbuild_patterns::has_wildcard(kept) {
        action.required_paths = vec![paths::clean_rooted(&format!("{start}/{kept}"))];
    }
    action.include_patterns = vec![kept.to_owned()];
}

fn parse_mode(text: &str) -> Result<Chmod, CompileError> {
    if text.is_empty() {
        return Ok(Chmod::Keep);
    }
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return if is_symbolic_mode(text) {
            Ok(Chmod::Symbolic(text.to_owned()))
        } else {
            Err(CompileError::new(format!("invalid chmod parameter: '{text}': invalid syntax")))
        };
    }
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o7777 => Ok(Chmod::Bits(bits)),
        _ => Err(CompileError::new(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        ))),
    }
}

/// `[ugoa]*[-+=][rwxXst]*`, several operations for the same who, several of these after commas.
fn is_symbolic_mode(text: &str) -> bool {
    text.split(',').all(|clause| {
        let operations = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let mut parts = operations.split(['+', '-', '=']);
        operations.starts_with(['+', '-', '='])
            && parts.next() == Some("")
            && parts.all(|permissions| permissions.bytes().all(|b| b"rwxXstugo".contains(&b)))
    })
}
