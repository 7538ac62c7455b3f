//! Two ops field by field, two lists of files path by path.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_worker::FileList;
use serde_json::Value;

use super::{BuildArgs, Cause, FileChanges, MAX_PATHS};

/// Values are shown up to this length.
const MAX_SHOWN: usize = 200;
/// Fields of one step that are named; more differ where a step was rewritten, and then the first ones say it.
const MAX_FIELDS: usize = 10;

/// How the JSON of two ops differs.
pub(super) fn ops(before: &str, after: &str, args: &BuildArgs, causes: &mut Vec<Cause>) {
    if before == after {
        return;
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (before, after) = (flat(&parse(before)), flat(&parse(after)));
    let fields: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for field in fields {
        let (was, is) = (before.get(field), after.get(field));
        if was == is || causes.len() >= MAX_FIELDS {
            continue;
        }
        let (before, after) = (was.map(|text| shown(text)), is.map(|text| shown(text)));
        let cause = match field.strip_prefix("env ") {
            Some(name) if args.has(name) => Cause::BuildArg { name: name.to_owned(), before, after },
            _ => Cause::Field { field: field.clone(), before, after },
        };
        causes.push(cause);
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The leaves of an op under names that people know.
fn flat(op: &Value) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    walk(&mut Vec::new(), op, &mut fields);
    fields
}

fn walk(path: &mut Vec<String>, value: &Value, fields: &mut BTreeMap<String, String>) {
    match (path.last().map(String::as_str), value) {
        (Some("args"), Value::Array(words)) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            // A shell form shows its command, not the shell around it.
            let words = match words.as_slice() {
                [_, "-c", command] => (*command).to_owned(),
                words => words.join(" "),
            };
            fields.insert("command".to_owned(), words);
        }
        (Some("env"), Value::Array(variables)) => {
            for variable in variables.iter().filter_map(Value::as_str) {
                let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
                fields.insert(format!("env {name}"), value.to_owned());
            }
        }
        // The text of a heredoc, in base64.
        (Some("data"), Value::String(data)) => {
            let digest = rbuild_digest::Digest::of(data);
            fields.insert(
                "text of the document".to_owned(),
                format!("{} ({} bytes)", digest.short(), data.len() * 3 / 4),
            );
        }
        (_, Value::Object(object)) => {
            for (name, value) in object {
                path.push(name.clone());
                walk(path, value, fields);
                path.pop();
            }
        }
        (_, Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                // A mount is known by where it is.
                let dest = value.get("dest").or_else(|| value.get("Dest")).and_then(Value::as_str);
                path.push(dest.map_or_else(|| index.to_string(), str::to_owned));
                walk(path, value, fields);
                path.pop();
            }
        }
        (_, leaf) => {
            let text = leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned);
            fields.insert(field_name(path), text);
        }
    }
}

fn field_name(path: &[String]) -> String {
    let skipped = |name: &&String| {
        matches!(
            name.as_str(),
            "Op" | "exec" | "Exec" | "file" | "File" | "source" | "Source" | "meta" | "Meta" | "Action"
        )
    };
    let names: Vec<&str> = path.iter().filter(|name| !skipped(name)).map(String::as_str).collect();
    names.join(".")
}

/// How two lists of files differ.
pub(super) fn files(before: &FileList, after: &FileList) -> FileChanges {
    let mut changes = FileChanges::default();
    let mut note = |list: fn(&mut FileChanges) -> &mut Vec<String>, path: &[u8]| {
        changes.total += 1;
        let list = list(&mut changes);
        if list.len() < MAX_PATHS {
            list.push(String::from_utf8_lossy(path).into_owned());
        }
    };
    for (path, digest) in after {
        match before.get(path) {
            None => note(|changes| &mut changes.added, path),
            Some(was) if was != digest => note(|changes| &mut changes.changed, path),
            Some(_) => {}
        }
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        note(|changes| &mut changes.removed, path);
    }
    changes
}
