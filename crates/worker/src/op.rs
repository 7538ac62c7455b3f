use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_llb::{LinuxResources, OpKind};
use rbuild_oci::Platform;
use rbuild_solver::{CacheMap, Op, OpContext};
use rbuild_store::Ref;

use crate::error::{OpError, OpErrorKind};
use crate::ops;
use crate::permits::Claim;
use crate::scope::Scope;
use crate::worker::Worker;

/// One vertex of a low-level build graph.
pub struct LlbOp {
    pub(crate) worker: Arc<Worker>,
    pub(crate) kind: OpKind,
    /// How many inputs the vertex has.
    pub(crate) inputs: usize,
    /// For a file op: the URLs of those inputs that are files behind one, fit to be shown.
    pub(crate) urls: Vec<Option<String>>,
    pub(crate) platform: Option<Platform>,
    pub(crate) resources: Option<LinuxResources>,
    /// Milliseconds from the begin of the step to the end of its build, going by earlier runs.
    pub(crate) way_ms: u64,
    /// Shown to the user, and in `du`.
    pub(crate) name: String,
}

impl fmt::Debug for LlbOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlbOp")
            .field("kind", &self.kind.word())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl LlbOp {
    /// For whom the step asks for a permit.
    pub(crate) fn claim(&self, cx: &OpContext<Scope>) -> Claim {
        let build = cx.first_scope().map_or_else(|| "".into(), |scope| scope.build_id);
        Claim { build, way_ms: self.way_ms }
    }

    async fn perform(&self, cx: &OpContext<Scope>, inputs: &[Ref]) -> Result<Vec<Ref>, OpError> {
        match &self.kind {
            OpKind::Source(op) => ops::source::fetch(self, op, cx).await,
            OpKind::Exec(op) => ops::exec::run(self, op, cx, inputs).await,
            OpKind::File(op) => ops::file::run(self, op, cx, inputs).await,
            OpKind::Merge(op) => ops::simple::merge(self, op, inputs).await,
            OpKind::Diff(op) => ops::simple::diff(self, *op, inputs).await,
            OpKind::Passthrough(op) => Ok(ops::simple::passthrough(op, inputs)),
            OpKind::Build(op) => ops::build::run(self, op, cx, inputs).await,
        }
    }
}

#[async_trait]
impl Op for LlbOp {
    type Output = Ref;
    type Scope = Scope;
    type Error = OpError;

    async fn cache_map(&self, cx: &OpContext<Scope>) -> Result<CacheMap, OpError> {
        match &self.kind {
            OpKind::Source(op) => ops::source::cache_map(self, op, cx).await,
            OpKind::Exec(op) => Ok(ops::exec_key::cache_map(self, op)),
            OpKind::File(op) => Ok(ops::file_key::cache_map(self, op)),
            OpKind::Merge(op) => Ok(ops::simple::merge_map(op)),
            OpKind::Diff(op) => Ok(ops::simple::diff_map(*op)),
            OpKind::Passthrough(op) => Ok(ops::simple::passthrough_map(op)),
            OpKind::Build(op) => Ok(ops::build::cache_map(op)),
        }
    }

    async fn content_key(
        &self,
        cx: &OpContext<Scope>,
        input: usize,
        output: &Ref,
    ) -> Result<Option<Digest>, OpError> {
        let selectors = match &self.kind {
            OpKind::Exec(op) => ops::exec_key::selectors(op, input),
            OpKind::File(op) => ops::file_key::selectors(op, self.inputs, input),
            _ => return Ok(None),
        };
        let digest = ops::select::digest(output, &selectors).await?;
        let witnesses: Vec<_> = cx.scopes().into_iter().filter_map(|scope| scope.witness).collect();
        if let Some(content) = &digest
            && !witnesses.is_empty()
        {
            let files = ops::select::list(output, &selectors).await?;
            for witness in witnesses {
                witness.reads(&cx.vertex().digest, input, content, files.as_ref());
            }
        }
        Ok(digest)
    }

    async fn exec(&self, cx: &OpContext<Scope>, inputs: Vec<Ref>) -> Result<Vec<Ref>, OpError> {
        // Ends, at the latest when nothing is left that could be removed.
        let mut attempt = 0;
        loop {
            match self.perform(cx, &inputs).await {
                Err(error)
                    if error.kind() == OpErrorKind::NoSpace && self.worker.make_room(attempt).await =>
                {
                    tracing::info!(%error, name = %self.name, "tried again after room was made");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn shareable(&self) -> bool {
        match &self.kind {
            OpKind::Source(op) => ops::source::shareable(op),
            // What it finds is solved with the rights and for the eyes of one build.
            OpKind::Build(_) => false,
            _ => true,
        }
    }

    fn outputs(&self) -> usize {
        let last = match &self.kind {
            OpKind::Exec(op) => op.mounts.iter().filter_map(|mount| mount.output).max(),
            OpKind::File(op) => op.actions.iter().filter_map(|action| action.output).max(),
            OpKind::Passthrough(op) => u32::try_from(op.outputs.len().saturating_sub(1)).ok(),
            _ => None,
        };
        last.map_or(1, |last| last as usize + 1)
    }

    fn resolves(&self) -> bool {
        matches!(&self.kind, OpKind::Source(source) if source.scheme() != "local")
    }
}
