//! The step from a plan that knows all it must to a lowered target.

use crate::context::BuildContext;
use crate::lower::{LoweredStage, lower, uses_context};
use crate::plan::Plan;
use crate::source::Source;
use crate::{CompileError, CompileOptions};

/// A plan that misses nothing.
pub(crate) struct Lowerable<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) source: &'a Source,
    pub(crate) options: &'a CompileOptions,
}

impl Lowerable<'_> {
    /// Whether the target uses the build context at all.
    pub(crate) fn uses_context(&self) -> Result<bool, CompileError> {
        uses_context(self.plan)
    }

    /// Lowers the target.
    pub(crate) fn lower(&self, context: &BuildContext) -> Result<LoweredStage, CompileError> {
        lower(self.plan, self.source, self.options, context)
    }
}
