//! How failures of the rooms below become what the user reads: classified once, here.

use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_frontend::{BuildError, Detail, ErrorCode, FailedStep, SharedRef};
use rbuild_llb::Graph;
use rbuild_solver::SolveError;
use rbuild_store::Ref;
use rbuild_worker::{OpError, OpErrorKind};

use crate::advice;
use crate::refs::HeldRef;

/// The kind of an op's failure as the wire knows it.
fn code_of(kind: OpErrorKind) -> ErrorCode {
    match kind {
        OpErrorKind::User => ErrorCode::Unknown,
        OpErrorKind::Invalid => ErrorCode::InvalidArgument,
        OpErrorKind::NotFound => ErrorCode::NotFound,
        OpErrorKind::Denied => ErrorCode::PermissionDenied,
        OpErrorKind::Peer => ErrorCode::Unavailable,
        OpErrorKind::NoSpace => ErrorCode::ResourceExhausted,
        OpErrorKind::Unsupported => ErrorCode::Unimplemented,
        OpErrorKind::Cancelled => ErrorCode::Cancelled,
        OpErrorKind::Environment | OpErrorKind::Internal => ErrorCode::Internal,
    }
}

/// An op's failure without a vertex around it.
pub(crate) fn from_op(error: &OpError) -> BuildError {
    let mut built = BuildError::new(code_of(error.kind()), error.to_string());
    if let Some(code) = error.exit_code() {
        built = built.with(Detail::Exit(code));
    }
    advice::of_op(built, error)
}

/// A failed solve of `graph`: says which vertex, and where it was written.
pub(crate) fn from_solve(error: &SolveError<OpError>, graph: &Graph) -> BuildError {
    match error {
        SolveError::Op { vertex, error } => {
            let built = from_op(error).with(Detail::Vertex(vertex.digest));
            with_step(located(built, graph, &vertex.digest), graph, &vertex.digest, error)
        }
        SolveError::Cancelled => cancelled(),
        other => BuildError::new(ErrorCode::Internal, other.to_string()),
    }
}

/// Says what the step was and what it left.
fn with_step(built: BuildError, graph: &Graph, vertex: &Digest, error: &OpError) -> BuildError {
    let Some(failed) = graph.find(vertex).map(|id| graph.vertex(id)) else { return built };
    let held = |refs: &[Option<Ref>]| {
        refs.iter().map(|held| held.clone().map(|held| Arc::new(HeldRef(held)) as SharedRef)).collect()
    };
    built.with(Detail::Step(Arc::new(FailedStep {
        op: failed.op.clone(),
        description: failed.metadata.description.clone(),
        inputs: error.left().map(|left| held(&left.inputs)).unwrap_or_default(),
        mounts: error.left().map(|left| held(&left.mounts)).unwrap_or_default(),
    })))
}

/// Says where a vertex was written. Of one that stands nowhere itself, such as a download, where it is used first.
pub(crate) fn located(built: BuildError, graph: &Graph, vertex: &Digest) -> BuildError {
    let Some(failed) = graph.find(vertex) else { return built };
    let mut users = BTreeSet::from([failed]);
    let mut places = &graph.vertex(failed).locations;
    for (id, user) in graph.iter() {
        if !places.is_empty() {
            break;
        }
        if user.inputs.iter().any(|input| users.contains(&input.vertex)) {
            users.insert(id);
            places = &user.locations;
        }
    }
    places.iter().fold(built, |built, place| built.with(Detail::Source(place.clone())))
}

/// The error as a build's client is told it. What is wrong with the user's files, or with a peer, has no code of its
/// own, as with upstream: clients put a code other than "unknown" before the text.
pub(crate) fn told(error: BuildError) -> BuildError {
    let mut error = advice::by_code(error);
    match error.code {
        ErrorCode::InvalidArgument
        | ErrorCode::NotFound
        | ErrorCode::AlreadyExists
        | ErrorCode::PermissionDenied
        | ErrorCode::Unavailable => error.code = ErrorCode::Unknown,
        ErrorCode::Unknown
        | ErrorCode::Unimplemented
        | ErrorCode::ResourceExhausted
        | ErrorCode::Cancelled
        | ErrorCode::Internal => {}
    }
    error
}

/// The build was cancelled. The wording is upstream's, which clients look for.
pub(crate) fn cancelled() -> BuildError {
    BuildError::new(ErrorCode::Cancelled, "context canceled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_see_no_code_before_what_the_user_got_wrong() {
        assert_eq!(told(BuildError::invalid("x")).code, ErrorCode::Unknown);
        assert_eq!(told(BuildError::new(ErrorCode::NotFound, "x")).code, ErrorCode::Unknown);
        assert_eq!(told(BuildError::unimplemented("x")).code, ErrorCode::Unimplemented);
        assert_eq!(told(cancelled()).code, ErrorCode::Cancelled);
    }
}
