//! Definitions that build ops have solved, in the build that they belong to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, Weak};

use async_trait::async_trait;
use rbuild_frontend::{BuildError, Detail, ErrorCode};
use rbuild_llb::Definition;
use rbuild_store::Ref;
use rbuild_worker::{Nested, OpError, OpErrorKind};

use crate::bridge::BuildContext;

/// Nested definitions solved at once: one whose steps write the next one for ever ends here.
const MAX_RUNNING: usize = 256;

/// The build that solves, once there is one.
#[derive(Debug, Default)]
pub(crate) struct NestedSolves {
    context: OnceLock<Weak<BuildContext>>,
    running: AtomicUsize,
}

impl NestedSolves {
    pub(crate) fn belongs_to(&self, context: Weak<BuildContext>) {
        // The first one stays: a build has one context.
        self.context.get_or_init(|| context);
    }
}

/// One of those that run.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Nested for NestedSolves {
    async fn solve(&self, definition: &Definition) -> Result<Option<Ref>, OpError> {
        let before = self.running.fetch_add(1, Ordering::Relaxed);
        let _running = Running(&self.running);
        if before >= MAX_RUNNING {
            let message = format!("more than {MAX_RUNNING} definitions are solved within each other");
            return Err(OpError::Invalid { message });
        }
        let context = self.context.get().and_then(Weak::upgrade).ok_or(OpError::Cancelled)?;
        context.solve_definition(definition).await.map_err(|error| to_op(&error))
    }
}

/// The failure of a nested definition as one of the op that had it solved.
fn to_op(error: &BuildError) -> OpError {
    let kind = match error.code {
        ErrorCode::InvalidArgument | ErrorCode::AlreadyExists => OpErrorKind::Invalid,
        ErrorCode::NotFound => OpErrorKind::NotFound,
        ErrorCode::PermissionDenied => OpErrorKind::Denied,
        ErrorCode::Unimplemented => OpErrorKind::Unsupported,
        ErrorCode::ResourceExhausted => OpErrorKind::NoSpace,
        ErrorCode::Unavailable => OpErrorKind::Peer,
        ErrorCode::Cancelled => return OpError::Cancelled,
        ErrorCode::Unknown => OpErrorKind::User,
        ErrorCode::Internal => OpErrorKind::Internal,
    };
    let exit_code = error.details.iter().find_map(|detail| match detail {
        Detail::Exit(code) => Some(*code),
        _ => None,
    });
    OpError::Nested { message: error.message.clone(), kind, exit_code }
}
