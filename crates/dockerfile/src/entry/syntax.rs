use rbuild_frontend::{BuildError, Detail, SolveRequest};
use rbuild_oci::ImageRef;

use super::request::BuildRequest;
use crate::parse::detect_syntax;
use crate::source::{Lines, Source};

/// Another frontend is to compile the file.
pub(super) struct Forward {
    pub(super) request: SolveRequest,
    /// The line that says so; 0 if it is an option.
    pub(super) line: u32,
}

/// Names of the image that this frontend stands in for, unless the daemon is configured otherwise.
pub const BUILT_IN: [&str; 2] = ["docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream"];

/// The frontend that the file or the request asks for, unless it is this one, under one of the `built_in` names.
pub(super) fn forward(build: &BuildRequest, source: &Source, built_in: &[String]) -> Option<Forward> {
    // With `cmdline` we are the frontend that was asked for.
    if build.options.get("cmdline").is_some_and(|line| !line.is_empty()) {
        return None;
    }
    let option = build.options.get("build-arg:BUILDKIT_SYNTAX").filter(|value| !value.is_empty());
    let (command, line) = match option {
        Some(value) => (value.clone(), 0),
        None => detect_syntax(&source.info.data)?,
    };
    let image = command.split_whitespace().next()?.to_owned();
    let repository = ImageRef::parse(&image).map(|name| name.repository());
    if repository.is_ok_and(|name| built_in.contains(&name)) {
        return None;
    }
    let mut options = build.options.clone();
    options.insert("cmdline".to_owned(), command);
    options.insert("source".to_owned(), image);
    let request = SolveRequest {
        frontend: "gateway.v0".to_owned(),
        options,
        inputs: build.inputs.clone(),
        ..SolveRequest::default()
    };
    Some(Forward { request, line })
}

/// Points an error at the line that named the frontend.
pub(super) fn locate(error: BuildError, source: &Source, line: u32) -> BuildError {
    if line == 0 || error.details.iter().any(|detail| matches!(detail, Detail::Source(_))) {
        return error;
    }
    error.with(Detail::Source(source.location(Lines::one(line))))
}
