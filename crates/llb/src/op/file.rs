use std::collections::BTreeSet;

use bytes::Bytes;
use rbuild_api::pb;
use rbuild_api::pb::file_action::Action as WireAction;
use rbuild_api::pb::user_opt::User as WireUser;

use super::{index_to_wire, optional_index};
use crate::OpError;

/// Changes files without a process: a list of actions, each on an input or on what an earlier action made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOp {
    /// The actions, in order.
    pub actions: Vec<FileAction>,
}

/// One action. An index below the number of the op's inputs is that input; beyond, it is the result of the
/// action with the remaining number; `None` is scratch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAction {
    /// What it changes.
    pub input: Option<u32>,
    /// What it copies from.
    pub secondary_input: Option<u32>,
    /// Which output of the op it is, if it is one.
    pub output: Option<u32>,
    /// What it does.
    pub kind: FileActionKind,
}

/// What an action does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileActionKind {
    /// Copies from the secondary input.
    Copy(Box<CopyAction>),
    /// Writes a file.
    Mkfile(MkfileAction),
    /// Makes a directory.
    Mkdir(MkdirAction),
    /// Removes.
    Rm(RmAction),
    /// Makes a symbolic link.
    Symlink(SymlinkAction),
}

/// Copies from the secondary input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyAction {
    /// Path in the secondary input.
    pub src: String,
    /// Path in the input; a slash at its end means a directory.
    pub dest: String,
    /// New owner; `None` keeps it.
    pub owner: Option<Chown>,
    /// New permissions.
    pub mode: Chmod,
    /// Follow a symlink at the end of `src`.
    pub follow_symlink: bool,
    /// Copy what is in the directory, not the directory.
    pub dir_copy_contents: bool,
    /// Unpack archives as ADD does.
    pub attempt_unpack: bool,
    /// Make missing parents of `dest`.
    pub create_dest_path: bool,
    /// `src` may have wildcards.
    pub allow_wildcard: bool,
    /// Wildcards may match nothing.
    pub allow_empty_wildcard: bool,
    /// Times of what is made, in nanoseconds since 1970; `None` keeps them.
    pub timestamp_ns: Option<i64>,
    /// Only what matches.
    pub include_patterns: Vec<String>,
    /// Not what matches.
    pub exclude_patterns: Vec<String>,
    /// Replace what is at `dest` even if its type differs.
    pub always_replace_existing: bool,
    /// Paths that must be there, from the root of the source.
    pub required_paths: Vec<String>,
}

/// Permissions of what is copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Chmod {
    /// As they are.
    #[default]
    Keep,
    /// These bits.
    Bits(u32),
    /// As chmod understands it, for instance `u=rwX,go=rX`.
    Symbolic(String),
}

/// Writes a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MkfileAction {
    /// Where.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Contents.
    pub data: Bytes,
    /// Owner; `None` is root.
    pub owner: Option<Chown>,
    /// Time in nanoseconds since 1970; `None` is now.
    pub timestamp_ns: Option<i64>,
}

/// Makes a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MkdirAction {
    /// Where.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Parents too, and no error if it is there.
    pub make_parents: bool,
    /// Owner; `None` is root.
    pub owner: Option<Chown>,
    /// Time in nanoseconds since 1970; `None` is now.
    pub timestamp_ns: Option<i64>,
}

/// Removes a file or a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RmAction {
    /// What.
    pub path: String,
    /// Not an error if it isn't there.
    pub allow_not_found: bool,
    /// `path` may have wildcards.
    pub allow_wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymlinkAction {
    /// What it points to.
    pub old_path: String,
    /// Where it is.
    pub new_path: String,
    /// Owner; `None` is root.
    pub owner: Option<Chown>,
    /// Time in nanoseconds since 1970; `None` is now.
    pub timestamp_ns: Option<i64>,
}

/// A new owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chown {
    /// User; `None` is 0.
    pub user: Option<UserRef>,
    /// Group; `None` follows the user.
    pub group: Option<UserRef>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// By number.
    Id(u32),
    /// By name.
    Name {
        /// The name.
        name: String,
        /// The file system whose `/etc/passwd` or `/etc/group` knows it, numbered as for [`FileAction`].
        input: Option<u32>,
    },
}

/// The wire's spelling of "no time given" and "keep the mode".
const NONE: i64 = -1;

impl FileOp {
    /// How many outputs it has.
    pub fn output_count(&self) -> u32 {
        self.actions.iter().filter_map(|a| a.output).max().map_or(0, |last| last + 1)
    }

    pub(super) fn describe(&self) -> String {
        let words = self.actions.iter().map(|action| match &action.kind {
            FileActionKind::Copy(c) => format!("copy {} {}", c.src, c.dest),
            FileActionKind::Mkfile(m) => format!("mkfile {}", m.path),
            FileActionKind::Mkdir(m) => format!("mkdir {}", m.path),
            FileActionKind::Rm(r) => format!("rm {}", r.path),
            FileActionKind::Symlink(s) => format!("symlink {} -> {}", s.new_path, s.old_path),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn from_wire(wire: pb::FileOp, inputs: usize) -> Result<Self, OpError> {
        if wire.actions.is_empty() {
            return Err(OpError::Missing("action of the file op"));
        }
        let count = wire.actions.len();
        let actions = wire.actions.into_iter().enumerate();
        let actions = actions
            .map(|(position, action)| FileAction::from_wire(action, inputs + position, count))
            .collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = actions.iter().filter_map(|a| a.output).find(|output| !seen.insert(*output)) {
            return Err(OpError::DuplicateOutput(i64::from(twice)));
        }
        Ok(Self { actions })
    }

    pub(super) fn to_wire(&self) -> pb::FileOp {
        pb::FileOp { actions: self.actions.iter().map(FileAction::to_wire).collect() }
    }
}

impl FileAction {
    /// `reachable`: inputs of the op and earlier actions together.
    fn from_wire(wire: pb::FileAction, reachable: usize, actions: usize) -> Result<Self, OpError> {
        let input = optional_index("input of the file action", wire.input, reachable)?;
        let secondary_input =
            optional_index("secondary input of the file action", wire.secondary_input, reachable)?;
        let output = optional_index("output of the file action", wire.output, actions)?;
        let kind = match wire.action.ok_or(OpError::Missing("kind of the file action"))? {
            WireAction::Copy(copy) => FileActionKind::Copy(Box::new(copy_from_wire(copy, reachable)?)),
            WireAction::Mkfile(m) => FileActionKind::Mkfile(MkfileAction {
                path: m.path,
                mode: mode_from_wire(m.mode)?,
                data: m.data.into(),
                owner: chown_from_wire(m.owner, reachable)?,
                timestamp_ns: time_from_wire(m.timestamp),
            }),
            WireAction::Mkdir(m) => FileActionKind::Mkdir(MkdirAction {
                path: m.path,
                mode: mode_from_wire(m.mode)?,
                make_parents: m.make_parents,
                owner: chown_from_wire(m.owner, reachable)?,
                timestamp_ns: time_from_wire(m.timestamp),
            }),
            WireAction::Rm(r) => FileActionKind::Rm(RmAction {
                path: r.path,
                allow_not_found: r.allow_not_found,
                allow_wildcard: r.allow_wildcard,
            }),
            WireAction::Symlink(s) => FileActionKind::Symlink(SymlinkAction {
                old_path: s.oldpath,
                new_path: s.newpath,
                owner: chown_from_wire(s.owner, reachable)?,
                timestamp_ns: time_from_wire(s.timestamp),
            }),
        };
        Ok(Self { input, secondary_input, output, kind })
    }

    pub(crate) fn to_wire(&self) -> pb::FileAction {
        let action = match &self.kind {
            FileActionKind::Copy(copy) => WireAction::Copy(copy_to_wire(copy)),
            FileActionKind::Mkfile(m) => WireAction::Mkfile(pb::FileActionMkFile {
                path: m.path.clone(),
                mode: m.mode.cast_signed(),
                data: m.data.to_vec(),
                owner: m.owner.as_ref().map(chown_to_wire),
                timestamp: time_to_wire(m.timestamp_ns),
            }),
            FileActionKind::Mkdir(m) => WireAction::Mkdir(pb::FileActionMkDir {
                path: m.path.clone(),
                mode: m.mode.cast_signed(),
                make_parents: m.make_parents,
                owner: m.owner.as_ref().map(chown_to_wire),
                timestamp: time_to_wire(m.timestamp_ns),
            }),
            FileActionKind::Rm(r) => WireAction::Rm(pb::FileActionRm {
                path: r.path.clone(),
                allow_not_found: r.allow_not_found,
                allow_wildcard: r.allow_wildcard,
            }),
            FileActionKind::Symlink(s) => WireAction::Symlink(pb::FileActionSymlink {
                oldpath: s.old_path.clone(),
                newpath: s.new_path.clone(),
                owner: s.owner.as_ref().map(chown_to_wire),
                timestamp: time_to_wire(s.timestamp_ns),
            }),
        };
        pb::FileAction {
            input: index_to_wire(self.input),
            secondary_input: index_to_wire(self.secondary_input),
            output: index_to_wire(self.output),
            action: Some(action),
        }
    }
}

fn copy_from_wire(wire: pb::FileActionCopy, reachable: usize) -> Result<CopyAction, OpError> {
    let mode = if !wire.mode_str.is_empty() {
        Chmod::Symbolic(wire.mode_str)
    } else if i64::from(wire.mode) == NONE {
        Chmod::Keep
    } else {
        Chmod::Bits(mode_from_wire(wire.mode)?)
    };
    Ok(CopyAction {
        src: wire.src,
        dest: wire.dest,
        owner: chown_from_wire(wire.owner, reachable)?,
        mode,
        follow_symlink: wire.follow_symlink,
        dir_copy_contents: wire.dir_copy_contents,
        attempt_unpack: wire.attempt_unpack_docker_compatibility,
        create_dest_path: wire.create_dest_path,
        allow_wildcard: wire.allow_wildcard,
        allow_empty_wildcard: wire.allow_empty_wildcard,
        timestamp_ns: time_from_wire(wire.timestamp),
        include_patterns: wire.include_patterns,
        exclude_patterns: wire.exclude_patterns,
        always_replace_existing: wire.always_replace_existing_dest_paths,
        required_paths: wire.required_paths,
    })
}

fn copy_to_wire(copy: &CopyAction) -> pb::FileActionCopy {
    let (mode, mode_str) = match &copy.mode {
        Chmod::Keep => (-1, String::new()),
        Chmod::Bits(bits) => (bits.cast_signed(), String::new()),
        Chmod::Symbolic(text) => (0, text.clone()),
    };
    pb::FileActionCopy {
        src: copy.src.clone(),
        dest: copy.dest.clone(),
        owner: copy.owner.as_ref().map(chown_to_wire),
        mode,
        follow_symlink: copy.follow_symlink,
        dir_copy_contents: copy.dir_copy_contents,
        attempt_unpack_docker_compatibility: copy.attempt_unpack,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        timestamp: time_to_wire(copy.timestamp_ns),
        include_patterns: copy.include_patterns.clone(),
        exclude_patterns: copy.exclude_patterns.clone(),
        always_replace_existing_dest_paths: copy.always_replace_existing,
        mode_str,
        required_paths: copy.required_paths.clone(),
    }
}

fn mode_from_wire(mode: i32) -> Result<u32, OpError> {
    u32::try_from(mode).map_err(|_| OpError::Range { field: "mode", value: i64::from(mode) })
}

fn time_from_wire(timestamp: i64) -> Option<i64> {
    (timestamp != NONE).then_some(timestamp)
}

fn time_to_wire(timestamp_ns: Option<i64>) -> i64 {
    timestamp_ns.unwrap_or(NONE)
}

fn chown_from_wire(wire: Option<pb::ChownOpt>, reachable: usize) -> Result<Option<Chown>, OpError> {
    let user = |user: Option<pb::UserOpt>| -> Result<Option<UserRef>, OpError> {
        match user.and_then(|u| u.user) {
            None => Ok(None),
            Some(WireUser::ById(id)) => Ok(Some(UserRef::Id(id))),
            Some(WireUser::ByName(named)) => {
                let input = optional_index("input of the user name", named.input, reachable)?;
                Ok(Some(UserRef::Name { name: named.name, input }))
            }
        }
    };
    wire.map(|wire| Ok(Chown { user: user(wire.user)?, group: user(wire.group)? })).transpose()
}

fn chown_to_wire(chown: &Chown) -> pb::ChownOpt {
    let user = |user: &UserRef| pb::UserOpt {
        user: Some(match user {
            UserRef::Id(id) => WireUser::ById(*id),
            UserRef::Name { name, input } => {
                WireUser::ByName(pb::NamedUserOpt { name: name.clone(), input: index_to_wire(*input) })
            }
        }),
    };
    pb::ChownOpt { user: chown.user.as_ref().map(user), group: chown.group.as_ref().map(user) }
}
