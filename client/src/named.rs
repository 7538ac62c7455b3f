//! `--build-context NAME=WHAT`: names that a build's Dockerfile may use for stages and images.

use std::path::Path;

use crate::context::{Context, is_remote};
use crate::errors::CommandError;
use crate::spec;

/// Adds what one argument names.
pub(crate) fn add(text: &str, context: &mut Context) -> Result<(), CommandError> {
    let (name, value) = spec::pair("--build-context", text)?;
    if matches!(name, "context" | "dockerfile") {
        return Err(CommandError::usage(format!("--build-context {text}: the name `{name}` is taken")));
    }
    let key = format!("context:{name}");
    if value.starts_with("docker-image://") || is_remote(value) {
        context.put(&key, value);
        return Ok(());
    }
    if let Some((kind, _)) = value.split_once("://") {
        return Err(CommandError::usage(format!("--build-context {text}: unknown kind `{kind}://`"))
            .hint("name a directory, docker-image://, oci-layout://, or the URL of a file or repository"));
    }
    if !Path::new(value).is_dir() {
        return Err(CommandError::new(format!("--build-context {text}: {value} is not a directory")));
    }
    context.put(&key, &format!("local:{name}"));
    // The frontend asks for names of contexts with their default tag cut off.
    context.share(name, value.into());
    Ok(())
}
