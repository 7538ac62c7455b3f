//! How failures of the rooms below become what the user reads: classified once, here.

use rbuild_frontend::{BuildError, Detail, ErrorCode};
use rbuild_llb::Definition;
use rbuild_solver::SolveError;
use rbuild_worker::{OpError, OpErrorKind};

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
    built
}

/// A failed solve of `definition`: says which vertex, and where it was written.
pub(crate) fn from_solve(error: &SolveError<OpError>, definition: &Definition) -> BuildError {
    match error {
        SolveError::Op { vertex, error } => {
            let mut built = from_op(error).with(Detail::Vertex(vertex.digest));
            for location in definition.locations(&vertex.digest) {
                built = built.with(Detail::Source(location.clone()));
            }
            built
        }
        SolveError::Cancelled => cancelled(),
        other => BuildError::new(ErrorCode::Internal, other.to_string()),
    }
}

/// The error as a build's client is told it. What is wrong with the user's files, or with a peer, has no code of its
/// own, as with upstream: clients put a code other than "unknown" before the text.
pub(crate) fn told(mut error: BuildError) -> BuildError {
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
