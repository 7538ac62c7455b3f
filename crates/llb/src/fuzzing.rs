//! What fuzz targets call: a function takes any bytes and panics if a claim about the crate does not hold.
//! Compiled for tests, which replay the kept inputs, and for `tests/fuzz` only.

#[cfg(test)]
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;

use prost::Message as _;
use rbuild_api::pb;
use rbuild_digest::Digest;
use rbuild_oci::{ImageRef, Platform};

use crate::git::{GitPlace, GitUrl, check_git_ref};
use crate::{Definition, Graph, Op, definition_to_dot, definition_to_json, definition_to_json_lines};

/// A definition from a client, as it is and with its ops joined: an input that names no op of the definition is led
/// to an earlier one, which no mutation of bytes would ever do.
///
/// Claims: what is accepted is accepted again as it is encoded, and is the same; inputs stand before their users and
/// exist; every op is the same after a way over the wire; all of it can be shown, in JSON that can be read.
pub fn definition(data: &[u8]) {
    definition_holds(data);
    if let Ok(mut wire) = pb::Definition::decode(data) {
        join(&mut wire);
        definition_holds(&wire.encode_to_vec());
    }
}

fn definition_holds(bytes: &[u8]) {
    let Ok(definition) = Definition::decode(bytes) else { return };
    let again = Definition::decode(&definition.encode());
    assert_eq!(again.as_ref().ok(), Some(&definition), "{again:?}");
    let graph = Graph::from_definition(&definition).expect("it was accepted");
    for (id, vertex) in graph.iter() {
        for input in &vertex.inputs {
            assert!(input.vertex < id && input.output < graph.vertex(input.vertex).op.output_count());
        }
        assert_eq!(Op::from_wire(vertex.op.to_wire()).as_ref(), Ok(&vertex.op));
        assert!(graph.find(&vertex.digest) == Some(id) && !vertex.op.describe().is_empty());
    }
    let head = definition.head().expect("it was accepted");
    assert_eq!(head.is_none(), definition.is_scratch());
    let lines = definition_to_json_lines(&definition).expect("its ops were decoded before");
    for line in lines.lines().chain([definition_to_json(&definition).as_str()]) {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
    definition_to_dot(&definition).expect("its ops were decoded before");
}

/// Leads inputs, metadata and locations to ops that exist.
fn join(wire: &mut pb::Definition) {
    let mut digests: Vec<Digest> = Vec::new();
    for bytes in &mut wire.def {
        let Ok(mut op) = pb::Op::decode(bytes.as_slice()) else { continue };
        for input in &mut op.inputs {
            let known = digests.iter().any(|digest| digest.to_string() == input.digest);
            if let Some(earlier) = digests.get(input.digest.len() % digests.len().max(1)).filter(|_| !known) {
                input.digest = earlier.to_string();
            }
        }
        *bytes = op.encode_to_vec();
        digests.push(Digest::of(&bytes));
    }
    let rename = |(place, (_, value))| (digests.get::<usize>(place).map(ToString::to_string), value);
    let renamed = std::mem::take(&mut wire.metadata).into_iter().enumerate().map(rename);
    wire.metadata = renamed.filter_map(|(key, value)| Some((key?, value))).collect();
    if let Some(source) = &mut wire.source {
        let rename = |(place, (_, value))| (digests.get::<usize>(place).map(ToString::to_string), value);
        let renamed = std::mem::take(&mut source.locations).into_iter().enumerate().map(rename);
        source.locations = renamed.filter_map(|(key, value)| Some((key?, value))).collect();
    }
}

/// Names that users write: images, platforms, git repositories.
///
/// Claims: what is understood is understood again when it is written out, long or short; nothing that a git
/// program could take for an option, a helper or a way out of the repository gets through.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(image) = ImageRef::parse(&text) {
        assert_eq!(ImageRef::parse(&image.to_string()).as_ref(), Ok(&image), "{text:?}");
        assert_eq!(ImageRef::parse(&image.familiar()).as_ref(), Ok(&image), "{text:?}");
    }
    if let Ok(platform) = Platform::parse(&text) {
        // The short form has no version and no features of the system.
        let short = |p: &Platform| (p.os.clone(), p.architecture.clone(), p.variant.clone());
        let again = Platform::parse(&platform.to_string()).map(|again| short(&again.normalize()));
        assert_eq!(again.as_ref(), Ok(&short(&platform.normalize())), "{text:?}: {platform}");
    }
    if let Ok(place) = GitPlace::parse(&text) {
        no_git_part_is_dangerous(&[&place.remote, &place.git_ref], &place.subdir, &place.git_ref);
    }
    let Ok(Some(url)) = GitUrl::parse(&text) else { return };
    let parts = [url.remote(), &url.place(), &url.git_ref, &url.host];
    no_git_part_is_dangerous(&parts, &url.subdir, &url.git_ref);
    assert!(!url.redacted().is_empty());
}

/// `arguments` may stand on a command line; the subdirectory is only ever looked up below a root.
fn no_git_part_is_dangerous(arguments: &[&str], subdir: &str, git_ref: &str) {
    for part in arguments {
        assert!(!part.starts_with('-') && !part.bytes().any(|byte| byte.is_ascii_control()), "{part:?}");
        assert!(!part.starts_with("ext::"), "{part:?}");
    }
    let inside = subdir.split('/').all(|part| part != "..") && !subdir.starts_with('/');
    assert!(inside && !subdir.bytes().any(|byte| byte.is_ascii_control()), "{subdir:?}");
    assert!(check_git_ref(git_ref).is_ok(), "{git_ref:?}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs_of_definition_hold() {
        super::replay::corpus("definition").iter().for_each(|input| super::definition(input));
    }

    #[test]
    fn kept_inputs_of_names_hold() {
        super::replay::corpus("names").iter().for_each(|input| super::names(input));
    }
}
