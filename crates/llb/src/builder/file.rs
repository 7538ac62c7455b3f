use super::constraints::Constraints;
use super::paths;
use super::state::State;
use super::vertex::{Output, Plan, PlannedVertex};
use crate::LlbError;
use crate::error::BuildProblem;
use crate::op::{
    Chown, CopyAction, FileAction, FileActionKind, FileOp, MkdirAction, MkfileAction, RmAction,
    SymlinkAction, UserRef,
};

/// File actions, each on what the one before left. Relative paths start from the state's directory; names of
/// owners are looked up in the state that the actions are performed on.
#[derive(Debug, Clone, Default)]
pub struct FileActions {
    actions: Vec<(FileActionKind, Option<State>)>,
}

/// Bits that a new file or directory can be given.
const PERMISSIONS: u32 = 0o777;

impl FileActions {
    /// No action yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no action.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Makes a directory.
    #[must_use]
    pub fn mkdir(self, mut action: MkdirAction) -> Self {
        action.mode &= PERMISSIONS;
        self.push(FileActionKind::Mkdir(action), None)
    }

    /// Writes a file.
    #[must_use]
    pub fn mkfile(self, mut action: MkfileAction) -> Self {
        action.mode &= PERMISSIONS;
        self.push(FileActionKind::Mkfile(action), None)
    }

    /// Removes.
    #[must_use]
    pub fn rm(self, action: RmAction) -> Self {
        self.push(FileActionKind::Rm(action), None)
    }

    /// Makes a symbolic link.
    #[must_use]
    pub fn symlink(self, action: SymlinkAction) -> Self {
        self.push(FileActionKind::Symlink(action), None)
    }

    /// Copies from a state.
    #[must_use]
    pub fn copy(self, from: &State, mut action: CopyAction) -> Self {
        let src = paths::clean(&action.src);
        let dir = if src.starts_with('/') { "/" } else { from.get_dir() };
        action.src = paths::join(&[dir, &src]);
        self.push(FileActionKind::Copy(Box::new(action)), Some(from.clone()))
    }

    fn push(mut self, kind: FileActionKind, from: Option<State>) -> Self {
        self.actions.push((kind, from));
        self
    }
}

#[derive(Debug)]
pub(super) struct FilePlan {
    base: Option<Output>,
    actions: Vec<(FileActionKind, Option<Output>)>,
}

impl FilePlan {
    pub(super) fn take_inputs(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.base.take().into_iter().chain(self.actions.iter_mut().filter_map(|(_, from)| from.take()))
    }

    /// The op, its actions not yet chained. `input` numbers an output among the op's inputs, in the order in
    /// which it is asked.
    pub(super) fn op(&self, mut input: impl FnMut(&Output) -> u32) -> Result<FileOp, LlbError> {
        if self.actions.is_empty() {
            return Err(LlbError::Build(BuildProblem::NoAction));
        }
        let base = self.base.as_ref().map(&mut input);
        let sources: Vec<Option<u32>> =
            self.actions.iter().map(|(_, from)| from.as_ref().map(&mut input)).collect();
        let last = self.actions.len() - 1;
        let actions = self.actions.iter().zip(sources).enumerate().map(|(position, ((kind, _), source))| {
            let mut kind = kind.clone();
            resolve_owner(&mut kind, base);
            FileAction {
                input: if position == 0 { base } else { None },
                secondary_input: source,
                output: (position == last).then_some(0),
                kind,
            }
        });
        Ok(FileOp { actions: actions.collect() })
    }

    /// Lets every action but the first go on from the one before; possible once the inputs are counted.
    pub(super) fn chain(op: &mut FileOp, inputs: usize) {
        let inputs = u32::try_from(inputs).unwrap_or(u32::MAX);
        for (previous, action) in (0u32..).zip(op.actions.iter_mut().skip(1)) {
            action.input = Some(inputs.saturating_add(previous));
        }
    }
}

/// Names of owners are looked up in the state that the op starts from.
fn resolve_owner(kind: &mut FileActionKind, base: Option<u32>) {
    let owner = match kind {
        FileActionKind::Copy(action) => &mut action.owner,
        FileActionKind::Mkfile(action) => &mut action.owner,
        FileActionKind::Mkdir(action) => &mut action.owner,
        FileActionKind::Symlink(action) => &mut action.owner,
        FileActionKind::Rm(_) => return,
    };
    let Some(Chown { user, group }) = owner else { return };
    for who in [user, group].into_iter().flatten() {
        if let UserRef::Name { input, .. } = who {
            *input = base;
        }
    }
}

pub(super) fn plan_file(state: &State, actions: FileActions, constraints: Constraints) -> State {
    let dir = state.get_dir();
    let mut planned = Vec::with_capacity(actions.actions.len());
    let mut order = Vec::new();
    for (mut kind, from) in actions.actions {
        match &mut kind {
            FileActionKind::Copy(action) => action.dest = paths::absolute(dir, &action.dest, true),
            FileActionKind::Mkfile(action) => action.path = paths::absolute(dir, &action.path, false),
            FileActionKind::Mkdir(action) => action.path = paths::absolute(dir, &action.path, false),
            FileActionKind::Rm(action) => action.path = paths::absolute(dir, &action.path, false),
            FileActionKind::Symlink(_) => {}
        }
        planned.push((kind, from.and_then(|from| from.output)));
    }
    // Upstream lists the inputs from the last action back to the first, the base before each.
    for (_, from) in planned.iter().rev() {
        order.extend(state.output.iter().cloned());
        order.extend(from.iter().cloned());
    }
    let plan = FilePlan { base: state.output.clone(), actions: planned };
    let vertex = PlannedVertex::new(Plan::File(plan), constraints, order);
    state.clone().with_output(Output { vertex, index: 0 }, None)
}

impl Chown {
    /// Parses `user[:group]`; numbers and `root` are ids, all else is a name.
    pub fn parse(text: &str) -> Self {
        let who = |text: &str| {
            if matches!(text, "" | "root") {
                return UserRef::Id(0);
            }
            match text.parse::<i32>() {
                Ok(id) => UserRef::Id(id.cast_unsigned()),
                Err(_) => UserRef::Name { name: text.to_owned(), input: None },
            }
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Self { user: Some(who(user)), group: group.map(who) }
    }

    /// By numbers.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self { user: Some(UserRef::Id(uid)), group: Some(UserRef::Id(gid)) }
    }
}
