//! `--build-context NAME=WHAT`: names that a build's Dockerfile may use for stages and images.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use rbuild_digest::Digest;
use serde::Deserialize;

use crate::context::{Context, is_remote};
use crate::errors::CommandError;
use crate::spec;

/// The tag that is meant when none is given.
const DEFAULT_TAG: &str = "latest";
/// An index that is larger is none that anybody wrote.
const MAX_INDEX: u64 = 8 << 20;

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Adds what one argument names.
pub(crate) fn add(text: &str, context: &mut Context) -> Result<(), CommandError> {
    let (name, value) = spec::pair("--build-context", text)?;
    if matches!(name, "context" | "dockerfile") {
        return Err(CommandError::usage(format!("--build-context {text}: the name `{name}` is taken")));
    }
    let key = format!("context:{name}");
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        return add_layout(&key, layout, context)
            .map_err(|error| error.context(format!("--build-context {text}")));
    }
    if value.starts_with("docker-image://") || is_remote(value) {
        context.put(&key, value);
        return Ok(());
    }
    if let Some((kind, _)) = value.split_once("://") {
        return Err(CommandError::usage(format!("--build-context {text}: unknown kind `{kind}://`"))
            .hint("name a directory, docker-image://, oci-layout://, or the URL of a file or repository"));
    }
    if !Path::new(value).is_dir() {
        return Err(CommandError::new(format!("--build-context {text}: {value} is not a directory"))
            .fault(rbuild_frontend::Fault::Context));
    }
    context.put(&key, &format!("local:{name}"));
    // The frontend asks for names of contexts with their default tag cut off.
    context.share(name, value.into());
    Ok(())
}

/// Shares a directory in OCI layout. `layout`: `DIR[:TAG][@DIGEST]`; without a digest, the index says which image.
fn add_layout(key: &str, layout: &str, context: &mut Context) -> Result<(), CommandError> {
    let (place, digest) = match layout.split_once('@') {
        Some((place, digest)) => {
            (place, Some(Digest::parse(digest).map_err(|error| CommandError::usage(error.to_string()))?))
        }
        None => (layout, None),
    };
    // What follows the last colon is a tag unless it is a part of the path.
    let (dir, tag) = match place.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') && !Path::new(place).is_dir() => (dir, Some(tag)),
        _ => (place, None),
    };
    let digest = match digest {
        Some(digest) => digest,
        None => tagged(Path::new(dir), tag.unwrap_or(DEFAULT_TAG), tag.is_none())?,
    };
    let id = rbuild_digest::random_id();
    context.put(key, &format!("oci-layout://{id}:{}@{digest}", tag.unwrap_or(DEFAULT_TAG)));
    let added = context.stores.add_readable(format!("oci:{id}"), dir);
    added.map_err(|error| CommandError::new(error.to_string()))
}

/// The image of a layout that has this tag. If none was asked for, the only image is meant, whatever it is called.
fn tagged(dir: &Path, tag: &str, any: bool) -> Result<Digest, CommandError> {
    let path = dir.join("index.json");
    let failed = |error: String| CommandError::new(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).map_err(|error| failed(error.to_string()))?;
    file.take(MAX_INDEX).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    let named = index.manifests.iter().find(|entry| {
        entry.annotations.get("org.opencontainers.image.ref.name").is_some_and(|name| name == tag)
    });
    let found = match (named, index.manifests.as_slice()) {
        (Some(entry), _) => entry,
        (None, [only]) if any => only,
        _ => return Err(failed(format!("no image has the tag `{tag}`"))),
    };
    Digest::parse(&found.digest).map_err(|error| failed(error.to_string()))
}
