//! Sources: asks the source crate what an identifier means now, and for its files.

use rbuild_llb::SourceOp;
use rbuild_solver::{CacheMap, OpContext};
use rbuild_source::{Pin, SourceError, SourceRequest};
use rbuild_store::Ref;

use crate::error::{OpError, OpErrorKind};
use crate::op::LlbOp;
use crate::scope::{self, Scope};

/// A local directory is one client's: its vertex may be shared only if its definition says whose it is.
pub(crate) fn shareable(op: &SourceOp) -> bool {
    let names_client = |attr: &str| op.attrs.get(attr).is_some_and(|value| !value.is_empty());
    op.scheme() != "local" || names_client("local.session") || names_client("local.unique")
}

fn request(op: &LlbOp, source: &SourceOp, cx: &OpContext<Scope>) -> Result<SourceRequest, OpError> {
    let waiters = cx.audience().waiters();
    let first = waiters.first().ok_or(OpError::Cancelled)?;
    Ok(SourceRequest {
        op: source.clone(),
        platform: op.platform.clone(),
        sessions: scope::sessions_of(cx),
        reporter: crate::logs::reporter(&first.scope.progress, &first.vertex),
        description: op.name.clone(),
        memo: first.scope.memo.clone(),
    })
}

pub(crate) async fn cache_map(
    op: &LlbOp,
    source: &SourceOp,
    cx: &OpContext<Scope>,
) -> Result<CacheMap, OpError> {
    let from = op.worker.source(source)?;
    let pin = from.resolve(&request(op, source, cx)?).await?;
    let aliases = pin.aliases.iter().map(|key| Pin::digest_of(key)).collect();
    Ok(CacheMap { volatile: pin.volatile, aliases, ..CacheMap::new(pin.cache_digest()) })
}

pub(crate) async fn fetch(op: &LlbOp, source: &SourceOp, cx: &OpContext<Scope>) -> Result<Vec<Ref>, OpError> {
    let from = op.worker.source(source)?;
    let request = request(op, source, cx)?;
    let work = async {
        let pin = from.resolve(&request).await?;
        from.fetch(&request, &pin).await
    };
    tokio::select! {
        biased;
        () = cx.cancel().cancelled() => Err(OpError::Cancelled),
        fetched = work => Ok(vec![fetched?]),
    }
}

impl From<SourceError> for OpError {
    fn from(error: SourceError) -> Self {
        Self::Source(std::sync::Arc::new(error))
    }
}

/// Whose doing a source's failure is.
pub(crate) fn kind(error: &SourceError) -> OpErrorKind {
    match error {
        error if error.is_not_found() => OpErrorKind::NotFound,
        SourceError::Invalid { .. } => OpErrorKind::Invalid,
        SourceError::Unsupported { .. } => OpErrorKind::Unsupported,
        SourceError::Address { .. } => OpErrorKind::Denied,
        SourceError::Store(error) if error.is_no_space() => OpErrorKind::NoSpace,
        SourceError::Session(error) if error.is_no_space() => OpErrorKind::NoSpace,
        SourceError::Store(_) | SourceError::Io { .. } => OpErrorKind::Environment,
        _ => OpErrorKind::Peer,
    }
}
