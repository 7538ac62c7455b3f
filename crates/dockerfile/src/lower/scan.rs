//! Which stages, and whether the context, are told of in lists of packages besides the target.
//!
//! Source: BuildKit's documents on SBOM attestations; that stages take the argument over from the stage that they are
//! based on, and from before the first FROM, is what a peer does.

use rbuild_llb::State;

use super::stage::Built;
use super::{Lowering, StageId};
use crate::shell::Variables as _;

const CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

impl Lowering<'_> {
    /// Whether the context is looked at.
    pub(super) fn scans_context(&self) -> bool {
        self.options.scans && self.built.iter().flatten().any(|built| is_on(self.scan_arg(built, CONTEXT)))
    }

    /// Names and files.
    pub(super) fn scans(&self) -> Vec<(String, State)> {
        if !self.options.scans {
            return Vec::new();
        }
        let mut scans = Vec::new();
        if self.scans_context() {
            scans.push(("sbom-context".to_owned(), self.context.clone()));
        }
        for (id, built) in self.built.iter().enumerate() {
            if let Some(built) = built
                && id != self.plan.target
                && self.scans_stage(id, built)
            {
                scans.push((format!("sbom-{}", self.plan.stages[id].shown), built.state.clone()));
            }
        }
        scans
    }

    /// The argument is a switch or a list of stages.
    fn scans_stage(&self, id: StageId, built: &Built) -> bool {
        let stage = &self.plan.stages[id];
        let value = self.scan_arg(built, STAGE);
        let is_named = |name: &str| !stage.name.is_empty() && name.trim().eq_ignore_ascii_case(&stage.name);
        !stage.implicit && (is_on(value) || value.unwrap_or_default().split(',').any(is_named))
    }

    /// As the stage has it, else as it was before the first FROM.
    fn scan_arg<'a>(&'a self, built: &'a Built, name: &str) -> Option<&'a str> {
        match built.args.iter().find(|(known, _)| known == name) {
            Some((_, value)) => value.as_deref(),
            None => self.plan.globals.get(name),
        }
    }
}

fn is_on(value: Option<&str>) -> bool {
    matches!(value, Some("1" | "t" | "T" | "true" | "True" | "TRUE"))
}
