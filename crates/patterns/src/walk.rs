use crate::pattern::Pattern;
use crate::{Match, PatternError, PatternSet};

/// An include and an exclude list over a walk.
#[derive(Debug, Clone, Default)]
pub struct WalkFilter {
    include: Option<PatternSet>,
    exclude: Option<PatternSet>,
    /// All includes are plain paths (apart from a glob at their end), so that directories beside them can be
    /// pruned.
    plain_includes: bool,
    /// The same of the exceptions to the excludes.
    plain_exceptions: bool,
}

/// What is known of a directory, for the entries in it.
#[derive(Debug, Clone, Default)]
pub struct DirState {
    include: Match,
    exclude: Match,
}

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Show it (and, if it is a directory, go in).
    Emit,
    /// Go into the directory, but show it only if something below it is shown.
    Descend,
    /// Neither show it nor go in.
    Skip,
}

/// Characters that make more of a path than a path.
const SPECIAL: [char; 6] = ['*', '[', ']', '?', '^', '\\'];

fn is_plain(pattern: &Pattern) -> bool {
    !pattern.without_trailing_glob().contains(SPECIAL)
}

/// Whether something below `dir` could match the (plain) pattern: one is a path prefix of the other.
fn reaches(pattern: &Pattern, dir: &str) -> bool {
    let text = pattern.without_trailing_glob();
    text.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl WalkFilter {
    /// Parses both lists. No include means everything; no exclude means nothing.
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Self, PatternError> {
        let parse = |lines: &[S]| {
            if lines.is_empty() { Ok(None) } else { PatternSet::parse(lines).map(Some) }
        };
        let (include, exclude) = (parse(include)?, parse(exclude)?);
        let all_plain = |set: &Option<PatternSet>, negated: bool| {
            let patterns = set.iter().flat_map(|set| set.patterns());
            patterns.filter(|p| p.negated == negated).all(is_plain)
        };
        let (plain_includes, plain_exceptions) = (all_plain(&include, false), all_plain(&exclude, true));
        Ok(Self { include, exclude, plain_includes, plain_exceptions })
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// What to do with the entry at `path`; `parent` is the state of the directory that holds it (the default
    /// at the top). The returned state is for the entries below, if it is a directory.
    pub fn visit(&self, path: &str, is_dir: bool, parent: &DirState) -> (Verdict, DirState) {
        let mut state = DirState::default();
        let mut verdict = Verdict::Emit;
        if let Some(include) = &self.include {
            state.include = include.matches_with_parent(path, &parent.include);
            if !state.include.matched() {
                let mut includes = include.patterns().iter().filter(|p| !p.negated);
                if !is_dir || (self.plain_includes && !includes.any(|p| reaches(p, path))) {
                    return (Verdict::Skip, state);
                }
                verdict = Verdict::Descend;
            }
        }
        if let Some(exclude) = &self.exclude {
            state.exclude = exclude.matches_with_parent(path, &parent.exclude);
            if state.exclude.matched() {
                let mut exceptions = exclude.patterns().iter().filter(|p| p.negated);
                if !is_dir || (self.plain_exceptions && !exceptions.any(|p| reaches(p, path))) {
                    return (Verdict::Skip, state);
                }
                verdict = Verdict::Descend;
            }
        }
        (verdict, state)
    }

    /// Whether the entry at `path` passes, without a walk.
    pub fn allows(&self, path: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.matches(path))
            && !self.exclude.as_ref().is_some_and(|set| set.matches(path))
    }

    /// Starts a walk.
    pub fn walker<T>(&self) -> Walker<'_, T> {
        Walker { filter: self, stack: Vec::new() }
    }
}

/// One walk in depth-first order: keeps the state of the directories above, and holds back directories until
/// something below them is shown. `T` is whatever the walk knows of an entry.
#[derive(Debug)]
pub struct Walker<'a, T> {
    filter: &'a WalkFilter,
    stack: Vec<OpenDir<T>>,
}

#[derive(Debug)]
struct OpenDir<T> {
    path: String,
    state: DirState,
    held: Option<T>,
}

/// What a walk does with one entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Visited<T> {
    /// What to show now, in order: held back directories, then the entry itself.
    pub emit: Vec<T>,
    /// Whether to go into the directory.
    pub descend: bool,
}

impl<T> Walker<'_, T> {
    /// The next entry of the walk: parents before children.
    pub fn visit(&mut self, path: &str, is_dir: bool, entry: T) -> Visited<T> {
        let inside =
            |dir: &OpenDir<T>| path.strip_prefix(&*dir.path).is_some_and(|rest| rest.starts_with('/'));
        while self.stack.last().is_some_and(|dir| !inside(dir)) {
            self.stack.pop();
        }
        let top = DirState::default();
        let parent = self.stack.last().map_or(&top, |dir| &dir.state);
        let (verdict, state) = self.filter.visit(path, is_dir, parent);
        let mut emit = Vec::new();
        let mut held = None;
        match verdict {
            Verdict::Skip => return Visited { emit, descend: false },
            Verdict::Emit => {
                emit.extend(self.stack.iter_mut().filter_map(|dir| dir.held.take()));
                emit.push(entry);
            }
            Verdict::Descend => held = Some(entry),
        }
        if is_dir {
            self.stack.push(OpenDir { path: path.to_owned(), state, held });
        }
        Visited { emit, descend: is_dir }
    }
}

#[cfg(test)]
mod tests;
