//! What a file op is to the cache.
//!
//! The identity is the digest of its actions; a copy's source path is reduced to its last name, because the content of
//! what is copied is a key of its own. An input that some action changes is named by its record; an input that is
//! only copied from, or only asked for names of users, is named by the content of those parts.

use rbuild_digest::{Digest, Hasher};
use rbuild_llb::{Chown, CopyAction, FileAction, FileActionKind, FileOp, Op, OpKind, UserRef};
use rbuild_solver::{CacheMap, InputKey};
use rbuild_store::ChecksumOptions;

use super::select::{self, Selector};
use crate::op::LlbOp;

const TYPE: &str = "buildkit.file.v0";
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

pub(crate) fn cache_map(op: &LlbOp, file: &FileOp) -> CacheMap {
    let inputs = (0..op.inputs).map(|input| {
        let selectors = selectors(file, op.inputs, input);
        InputKey { selector: select::identity(&selectors), content: !selectors.is_empty() }
    });
    CacheMap { digest: digest(file, op.inputs), inputs: inputs.collect(), volatile: false }
}

fn digest(file: &FileOp, inputs: usize) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(TYPE);
    for action in &file.actions {
        let mut action = action.clone();
        if let (FileActionKind::Copy(copy), Some(from)) = (&mut action.kind, action.secondary_input)
            && (from as usize) < inputs
        {
            copy.src = base(&copy.src);
        }
        let single = FileOp { actions: vec![action] };
        hasher.field(rbuild_llb::op_to_json(&Op::new(OpKind::File(single), Vec::new())));
    }
    hasher.finish()
}

/// The last name of a path; what follows it (`/.`, `/`) decides about copying a directory or its contents elsewhere.
fn base(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/".to_owned();
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned()
}

/// The parts of an input that the actions read; empty if an action changes it, so that its record is its name.
pub(crate) fn selectors(file: &FileOp, inputs: usize, input: usize) -> Vec<Selector> {
    let is = |index: Option<u32>| index.is_some_and(|index| index as usize == input && input < inputs);
    if file.actions.iter().any(|action| is(action.input)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for action in &file.actions {
        if let FileActionKind::Copy(copy) = &action.kind
            && is(action.secondary_input)
        {
            found.push(copied(copy));
        }
        if let Some(owner) = owner(action) {
            for (user, path) in [(&owner.user, PASSWD), (&owner.group, GROUP)] {
                if let Some(UserRef::Name { input, .. }) = user
                    && is(*input)
                {
                    found.push(Selector::followed(path));
                }
            }
        }
    }
    select::dedupe(found)
}

fn copied(copy: &CopyAction) -> Selector {
    let path = String::from_utf8_lossy(&crate::files::clean(copy.src.as_bytes())).into_owned();
    let options = ChecksumOptions {
        follow_links: copy.follow_symlink,
        wildcard: copy.allow_wildcard && crate::files::has_wildcard(&copy.src),
        include: copy.include_patterns.clone(),
        exclude: copy.exclude_patterns.clone(),
    };
    Selector { path, options }
}

fn owner(action: &FileAction) -> Option<&Chown> {
    match &action.kind {
        FileActionKind::Copy(copy) => copy.owner.as_ref(),
        FileActionKind::Mkfile(make) => make.owner.as_ref(),
        FileActionKind::Mkdir(make) => make.owner.as_ref(),
        FileActionKind::Symlink(make) => make.owner.as_ref(),
        FileActionKind::Rm(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(src: &str, from: u32, owner: Option<Chown>) -> FileAction {
        let copy = CopyAction { src: src.into(), dest: "/".into(), owner, ..CopyAction::default() };
        FileAction {
            input: Some(0),
            secondary_input: Some(from),
            output: Some(0),
            kind: FileActionKind::Copy(Box::new(copy)),
        }
    }

    fn op(actions: Vec<FileAction>) -> FileOp {
        FileOp { actions }
    }

    #[test]
    fn source_paths_count_by_their_last_name() {
        let key = |src: &str| digest(&op(vec![copy(src, 1, None)]), 2);
        assert_eq!(key("/a/f"), key("/b/f"));
        assert_ne!(key("/a/f"), key("/a/g"));
    }

    #[test]
    fn changed_inputs_are_named_by_record_and_read_ones_by_content() {
        let named = Chown { user: Some(UserRef::Name { name: "app".into(), input: Some(1) }), group: None };
        let file = op(vec![copy("/a/./b", 1, Some(named)), copy("/c", 2, None)]);
        assert!(selectors(&file, 3, 0).is_empty());
        let paths: Vec<String> = selectors(&file, 3, 1).into_iter().map(|selector| selector.path).collect();
        assert_eq!(paths, ["/a/b", PASSWD]);
        assert_eq!(selectors(&file, 3, 2).len(), 1);
    }

    #[test]
    fn an_input_that_is_copied_into_itself_is_named_by_record() {
        let file = op(vec![copy("/a", 0, None)]);
        assert!(selectors(&file, 1, 0).is_empty());
    }
}
