//! Performs a file op: a chain of actions, each on an input or on what an earlier action made.
//!
//! What only the next action uses is changed in place; everything else becomes a ref of its own.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_llb::{Chmod, Chown, FileAction, FileActionKind, FileOp, UserRef};
use rbuild_progress::Warning;
use rbuild_solver::OpContext;
use rbuild_store::{MutableRef, NewMutable, Ref, TreeGuard};
use tokio_util::sync::CancellationToken;

use crate::error::OpError;
use crate::files::{
    self, Changes, CopyRequest, FileError, MakeDir, MakeFile, MakeLink, ModeChange, Owner, Share, find_group,
    find_user,
};
use crate::op::LlbOp;
use crate::scope::Scope;

/// What an action made.
enum Made {
    Nothing,
    Open(Box<MutableRef>),
    Done(Ref),
}

pub(crate) async fn run(
    op: &LlbOp,
    file: &FileOp,
    cx: &OpContext<Scope>,
    inputs: &[Ref],
) -> Result<Vec<Ref>, OpError> {
    let _permit = op.worker.permits.take(op.claim(cx), cx.cancel()).await?;
    let mut run =
        Run { op, file, cx, cancel: cx.cancel().clone(), inputs, made: Vec::new(), seen: Arc::default() };
    run.made.resize_with(file.actions.len(), || Made::Nothing);
    for index in 0..file.actions.len() {
        if cx.cancel().is_cancelled() {
            return Err(OpError::Cancelled);
        }
        run.action(index).await?;
    }
    run.outputs().await
}

struct Run<'a> {
    op: &'a LlbOp,
    file: &'a FileOp,
    cx: &'a OpContext<Scope>,
    cancel: CancellationToken,
    inputs: &'a [Ref],
    made: Vec<Made>,
    /// Inodes that the trees being made share with their sources.
    seen: Arc<Mutex<HashSet<u64>>>,
}

impl Run<'_> {
    async fn action(&mut self, index: usize) -> Result<(), OpError> {
        let action = self.file.actions[index].clone();
        let secondary = match action.secondary_input {
            Some(input) => Some(self.done(input).await?),
            None => None,
        };
        let names = Arc::new(self.name_sources(&action).await?);
        let known = names.clone();
        let mutable = self.writable(index, action.input).await?;
        let from = match &secondary {
            Some(source) => Some(source.tree().await?),
            None => None,
        };
        let tree = mutable.tree().await?;
        let cancel = self.cancel.clone();
        let max_unpacked = self.op.worker.options.max_unpacked_bytes;
        let upper = match &secondary {
            Some(source) if source.lends_files() => {
                mutable.mount()?.write_dir().map(std::path::Path::to_owned)
            }
            _ => None,
        };
        let kept = self.seen.clone();
        let input = action.secondary_input.map(|input| input as usize);
        let work = move || {
            let upper = upper.map(rbuild_sys::Root::open).transpose()?;
            let seen = RefCell::new(std::mem::take(&mut *kept.lock()));
            let share = upper.as_ref().map(|upper| Share { upper, seen: &seen });
            let bounds = Bounds { cancel: &cancel, max_unpacked };
            let done = perform(&action, &tree, from.as_ref(), &known, share, bounds);
            *kept.lock() = seen.into_inner();
            // The mount has to go before the tree can be committed.
            drop(tree);
            done
        };
        let done = tokio::task::spawn_blocking(work).await?;
        done.map_err(|error| match input.and_then(|input| self.op.urls.get(input)?.as_deref()) {
            Some(url) => error.of_download(url),
            None => error,
        })?;
        self.warn_of(&names.unknown.lock());
        self.made[index] = Made::Open(Box::new(mutable));
        Ok(())
    }

    fn warn_of(&self, unknown: &[String]) {
        if unknown.is_empty() {
            return;
        }
        for waiter in self.cx.audience().waiters() {
            let reporter = crate::logs::reporter(&waiter.scope.progress, &waiter.vertex);
            for short in unknown {
                reporter.warn(Warning { level: 1, short: short.clone(), ..Warning::default() });
            }
        }
    }

    /// Something to write to: what an earlier action made, if nobody else needs it, else a new tree upon it.
    async fn writable(&mut self, index: usize, input: Option<u32>) -> Result<MutableRef, OpError> {
        if let Some(earlier) = input.and_then(|input| self.earlier(input))
            && self.uses(earlier, index) == 0
            && self.file.actions[earlier].output.is_none()
            && matches!(self.made[earlier], Made::Open(_))
            && let Made::Open(mutable) = std::mem::replace(&mut self.made[earlier], Made::Nothing)
        {
            return Ok(*mutable);
        }
        let parent = match input {
            Some(input) => Some(self.done(input).await?),
            None => None,
        };
        let options = NewMutable::regular(&self.op.name);
        Ok(self.op.worker.options.store.new_mutable(parent.as_ref(), options).await?)
    }

    /// Which earlier action an index means.
    fn earlier(&self, input: u32) -> Option<usize> {
        (input as usize).checked_sub(self.inputs.len())
    }

    /// How often what action `earlier` made is needed by others than the base of action `user`.
    fn uses(&self, earlier: usize, user: usize) -> usize {
        let means = |index: Option<u32>| index.and_then(|index| self.earlier(index)) == Some(earlier);
        let actions = self.file.actions.iter().enumerate();
        actions
            .map(|(index, action)| {
                let base = usize::from(index != user && means(action.input));
                let owner = named_inputs(action).filter(|input| means(Some(*input))).count();
                base + usize::from(means(action.secondary_input)) + owner
            })
            .sum()
    }

    /// The tree that an index means, finished.
    async fn done(&mut self, input: u32) -> Result<Ref, OpError> {
        let Some(earlier) = self.earlier(input) else { return Ok(self.inputs[input as usize].clone()) };
        let missing = || OpError::invalid(format!("file action {earlier} has no result for others to use"));
        let made = self.made.get_mut(earlier).ok_or_else(missing)?;
        let done = match std::mem::replace(made, Made::Nothing) {
            Made::Nothing => return Err(missing()),
            Made::Done(done) => done,
            Made::Open(mutable) => mutable.commit().await?,
        };
        *made = Made::Done(done.clone());
        Ok(done)
    }

    /// Trees in which names of users and groups are looked up.
    async fn name_sources(&mut self, action: &FileAction) -> Result<Names, OpError> {
        let mut names = Names { trees: Vec::new(), unknown: Mutex::default() };
        for input in named_inputs(action) {
            let source = self.done(input).await?;
            names.trees.push((input, Arc::new(source.tree().await?)));
        }
        Ok(names)
    }

    async fn outputs(mut self) -> Result<Vec<Ref>, OpError> {
        let count = self.file.output_count();
        let mut outputs = Vec::new();
        for output in 0..count {
            let action = self.file.actions.iter().position(|action| action.output == Some(output));
            outputs.push(match action {
                Some(action) => {
                    let index = u32::try_from(self.inputs.len() + action).unwrap_or(u32::MAX);
                    self.done(index).await?
                }
                None => self.op.worker.options.store.scratch().await?,
            });
        }
        Ok(outputs)
    }
}

/// Indexes of trees that an action's owners are looked up in.
fn named_inputs(action: &FileAction) -> impl Iterator<Item = u32> {
    let owner = match &action.kind {
        FileActionKind::Copy(copy) => copy.owner.as_ref(),
        FileActionKind::Mkfile(make) => make.owner.as_ref(),
        FileActionKind::Mkdir(make) => make.owner.as_ref(),
        FileActionKind::Symlink(make) => make.owner.as_ref(),
        FileActionKind::Rm(_) => None,
    };
    let refs = owner.into_iter().flat_map(|owner| [owner.user.clone(), owner.group.clone()]);
    refs.filter_map(|user| match user {
        Some(UserRef::Name { input, .. }) => input,
        _ => None,
    })
}

struct Names {
    trees: Vec<(u32, Arc<TreeGuard>)>,
    /// What the build is told about names that are nobody's.
    unknown: Mutex<Vec<String>>,
}

impl Names {
    fn tree(&self, what: &'static str, name: &str, input: Option<u32>) -> Result<&TreeGuard, FileError> {
        let found = self.trees.iter().find(|(index, _)| Some(*index) == input);
        found.map(|(_, tree)| &**tree).ok_or_else(|| FileError::Owner {
            what,
            name: name.to_owned(),
            reason: "no file system was given to look it up in".to_owned(),
        })
    }

    /// A user without a group brings its own: by name the primary one, by number the same number. A user whom the
    /// image does not know is root, and an unknown group is the user's, as upstream has it.
    fn owner(&self, chown: &Chown) -> Result<Owner, FileError> {
        let mut owner = match &chown.user {
            None => Owner::default(),
            Some(UserRef::Id(id)) => Owner { uid: *id, gid: *id },
            // `--chown=:7` names a group only.
            Some(UserRef::Name { name, .. }) if name.is_empty() => Owner::default(),
            Some(UserRef::Name { name, input }) => {
                let found = find_user(self.tree("user", name, *input)?.root(), name)?;
                found.unwrap_or_else(|| {
                    self.miss("user", name, "/etc/passwd", "root");
                    Owner::default()
                })
            }
        };
        match &chown.group {
            None => {}
            Some(UserRef::Id(id)) => owner.gid = *id,
            Some(UserRef::Name { name, input }) => {
                match find_group(self.tree("group", name, *input)?.root(), name)? {
                    Some(gid) => owner.gid = gid,
                    None => self.miss("group", name, "/etc/group", "the user's"),
                }
            }
        }
        Ok(owner)
    }

    fn miss(&self, what: &str, name: &str, file: &str, instead: &str) {
        let name: String = name.chars().take(80).collect();
        self.unknown.lock().push(format!("{what} {name:?} is not in the image's {file}: {instead} is used"));
    }

    fn maybe(&self, chown: Option<&Chown>) -> Result<Option<Owner>, FileError> {
        chown.map(|chown| self.owner(chown)).transpose()
    }
}

/// Where an action ends before it is done.
#[derive(Clone, Copy)]
struct Bounds<'a> {
    cancel: &'a CancellationToken,
    max_unpacked: u64,
}

fn perform(
    action: &FileAction,
    tree: &TreeGuard,
    from: Option<&TreeGuard>,
    names: &Names,
    share: Option<Share<'_>>,
    bounds: Bounds<'_>,
) -> Result<(), FileError> {
    let root = tree.root();
    match &action.kind {
        FileActionKind::Copy(copy) => {
            let mode = match &copy.mode {
                Chmod::Keep => ModeChange::Keep,
                Chmod::Bits(bits) => ModeChange::Bits(*bits),
                Chmod::Symbolic(text) => ModeChange::parse(text)?,
            };
            let owner = names.maybe(copy.owner.as_ref())?;
            let request = CopyRequest {
                src: &copy.src,
                dest: &copy.dest,
                contents: copy.dir_copy_contents,
                follow: copy.follow_symlink,
                wildcard: copy.allow_wildcard,
                allow_empty: copy.allow_empty_wildcard,
                unpack: copy.attempt_unpack,
                max_unpacked: bounds.max_unpacked,
                create_dest: copy.create_dest_path,
                include: &copy.include_patterns,
                exclude: &copy.exclude_patterns,
                required: &copy.required_paths,
                replace: copy.always_replace_existing,
                changes: Changes { owner, mode, mtime_ns: copy.timestamp_ns },
                share,
                cancel: bounds.cancel,
            };
            // Copying from nothing finds nothing.
            let Some(from) = from else { return Err(FileError::not_found(&copy.src)) };
            files::copy(from.root(), root, &request)
        }
        FileActionKind::Mkfile(make) => {
            let owner = names.maybe(make.owner.as_ref())?.unwrap_or_default();
            let (path, mode, mtime_ns) = (&*make.path, make.mode, make.timestamp_ns);
            files::make_file(root, &MakeFile { path, mode, data: &make.data, owner, mtime_ns })
        }
        FileActionKind::Mkdir(make) => {
            let owner = names.maybe(make.owner.as_ref())?.unwrap_or_default();
            let (path, mode, mtime_ns) = (&*make.path, make.mode, make.timestamp_ns);
            files::make_dir(root, &MakeDir { path, mode, parents: make.make_parents, owner, mtime_ns })
        }
        FileActionKind::Rm(rm) => files::remove(root, &rm.path, rm.allow_wildcard, rm.allow_not_found),
        FileActionKind::Symlink(link) => {
            let owner = names.maybe(link.owner.as_ref())?.unwrap_or_default();
            let (target, path) = (&*link.old_path, &*link.new_path);
            files::make_link(root, &MakeLink { target, path, owner, mtime_ns: link.timestamp_ns })
        }
    }
}
