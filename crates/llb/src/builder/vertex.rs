use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::constraints::Constraints;
use super::exec::ExecPlan;
use super::file::FilePlan;
use crate::{OpMetadata, SourceOp};

/// One output of a vertex under construction.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) vertex: Arc<PlannedVertex>,
    pub(super) index: u32,
}

impl Output {
    /// Whether both name the same output of the same (not merely an equal) vertex.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.vertex, &other.vertex) && self.index == other.index
    }
}

/// A vertex that has not been encoded: its inputs are other vertices, not digests.
#[derive(Debug)]
pub(super) struct PlannedVertex {
    pub(super) plan: Plan,
    pub(super) constraints: Constraints,
    /// The inputs in the order in which a definition lists them, without repeats.
    pub(super) order: Vec<Output>,
}

#[derive(Debug)]
pub(super) enum Plan {
    Source(SourceOp),
    Exec(Box<ExecPlan>),
    File(FilePlan),
    Merge(Vec<Output>),
    Diff {
        lower: Option<Output>,
        upper: Option<Output>,
    },
    Passthrough {
        id: String,
        inputs: Vec<Output>,
        outputs: Vec<u32>,
    },
    /// A vertex of a definition: it stays what it is, whatever the options.
    Encoded {
        bytes: Bytes,
        metadata: Box<OpMetadata>,
    },
}

impl PlannedVertex {
    pub(super) fn new(plan: Plan, constraints: Constraints, order: Vec<Output>) -> Arc<Self> {
        let mut seen = HashSet::with_capacity(order.len());
        let mut unique = order;
        unique.retain(|output| seen.insert((Arc::as_ptr(&output.vertex), output.index)));
        Arc::new(Self { plan, constraints, order: unique })
    }

    /// Moves all references to other vertices out.
    fn take_inputs(&mut self, into: &mut Vec<Output>) {
        into.append(&mut self.order);
        match &mut self.plan {
            Plan::Source(_) | Plan::Encoded { .. } => {}
            Plan::Exec(exec) => into.extend(exec.take_inputs()),
            Plan::File(file) => into.extend(file.take_inputs()),
            Plan::Merge(inputs) | Plan::Passthrough { inputs, .. } => into.append(inputs),
            Plan::Diff { lower, upper } => into.extend([lower.take(), upper.take()].into_iter().flatten()),
        }
    }
}

/// A chain of a hundred thousand steps must not be dropped recursively: that would overflow the stack.
impl Drop for PlannedVertex {
    fn drop(&mut self) {
        let mut pending = Vec::new();
        self.take_inputs(&mut pending);
        while let Some(output) = pending.pop() {
            if let Some(mut vertex) = Arc::into_inner(output.vertex) {
                vertex.take_inputs(&mut pending);
            }
        }
    }
}
