//! What a file op is to the cache.
//!
//! The identity is the digest of its actions; a copy's source path is reduced to its last name, because the content of
//! what is copied is a key of its own. An input that some action changes is named by its record; an input that is
//! only copied from, or only asked for names of users, is named by the content of those parts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_digest::Digest;
use rbuild_llb::{Chown, CopyAction, FileAction, FileActionKind, FileOp, UserRef};
use rbuild_solver::{CacheMap, InputKey};
use rbuild_store::ChecksumOptions;

use super::select::{self, Selector};
use crate::op::LlbOp;

const TYPE: &str = "buildkit.file.v0";
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

pub(crate) fn cache_map(op: &LlbOp, file: &FileOp) -> CacheMap {
    let inputs = (0..op.inputs).map(|input| {
        let mut selectors = selectors(file, op.inputs, input);
        // Last path first: seen in caches that upstream wrote.
        selectors.sort_by(|a, b| b.path.cmp(&a.path));
        InputKey { selector: select::identity(&selectors), content: !selectors.is_empty() }
    });
    CacheMap { inputs: inputs.collect(), ..CacheMap::new(digest(file, op.inputs)) }
}

fn digest(file: &FileOp, inputs: usize) -> Digest {
    let actions = file.actions.iter().map(|action| {
        let mut action = action.clone();
        if let (FileActionKind::Copy(copy), Some(from)) = (&mut action.kind, action.secondary_input)
            && (from as usize) < inputs
        {
            copy.src = base(&copy.src);
        }
        format!("\"{}\"", STANDARD.encode(rbuild_llb::file_action_to_json(&action)))
    });
    let actions: Vec<String> = actions.collect();
    let mut text = format!("{{\"Type\":\"{TYPE}\",\"Actions\":[{}]", actions.join(","));
    if !is_chain(file) {
        let number = |index: Option<u32>| index.map_or(-1, i64::from);
        let indexes = file.actions.iter().map(|action| {
            let places = [action.input, action.secondary_input, action.output].map(number);
            format!("[{},{},{}]", places[0], places[1], places[2])
        });
        let indexes: Vec<String> = indexes.collect();
        text.push_str(&format!(",\"indexes\":[{}]", indexes.join(",")));
    }
    text.push('}');
    Digest::of(text)
}

/// The usual wiring, which is left out of the key: every action changes what the one before it made, copies come from
/// the second input, and the last action is the only output. Chains are numbered as if there were as many inputs as
/// actions, as upstream has it: of the others the key names the numbers.
fn is_chain(file: &FileOp) -> bool {
    let count = file.actions.len();
    !file.actions.is_empty()
        && file.actions.iter().enumerate().all(|(index, action)| {
            let input = if index == 0 { 0 } else { count + index - 1 };
            let output = (index + 1 == count).then_some(0);
            action.input.is_some_and(|number| number as usize == input)
                && matches!(action.secondary_input, None | Some(1))
                && action.output == output
        })
}

/// The last name of a path, as Go's `path.Base` has it.
fn base(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    match (path.is_empty(), trimmed.is_empty()) {
        (true, _) => ".".to_owned(),
        (false, true) => "/".to_owned(),
        _ => trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned(),
    }
}

/// The parts of an input that the actions read; empty if an action changes it, so that its record is its name.
pub(crate) fn selectors(file: &FileOp, inputs: usize, input: usize) -> Vec<Selector> {
    let is = |index: Option<u32>| index.is_some_and(|index| index as usize == input && input < inputs);
    if file.actions.iter().any(|action| is(action.input)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for action in &file.actions {
        if let Some(owner) = owner(action) {
            for (user, path) in [(&owner.user, PASSWD), (&owner.group, GROUP)] {
                if let Some(UserRef::Name { input, .. }) = user
                    && is(*input)
                {
                    found.push(Selector::followed(path));
                }
            }
        }
        if let FileActionKind::Copy(copy) = &action.kind
            && is(action.secondary_input)
        {
            found.push(copied(copy));
        }
    }
    select::dedupe(found)
}

fn copied(copy: &CopyAction) -> Selector {
    let options = ChecksumOptions {
        follow_links: copy.follow_symlink,
        wildcard: copy.allow_wildcard && crate::files::has_wildcard(&copy.src),
        include: copy.include_patterns.clone(),
        exclude: copy.exclude_patterns.clone(),
    };
    Selector { path: copy.src.clone(), options }
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
        assert_eq!(paths, [PASSWD, "/a/./b"]);
        assert_eq!(selectors(&file, 3, 2).len(), 1);
    }

    #[test]
    fn an_input_that_is_copied_into_itself_is_named_by_record() {
        let file = op(vec![copy("/a", 0, None)]);
        assert!(selectors(&file, 1, 0).is_empty());
    }
}
