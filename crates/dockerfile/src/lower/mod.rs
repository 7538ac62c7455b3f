//! Third pass: stages to LLB, image config and history. Pure: all that must be known is in the [`Plan`].

mod add;
mod args;
mod config;
mod copy;
mod from;
mod history;
mod network;
mod outline;
mod paths;
mod run;
mod scan;
mod stage;

use std::collections::BTreeSet;

use rbuild_llb::State;
use rbuild_oci::ImageConfig;
use rbuild_patterns::PatternSet;

use crate::context::BuildContext;
use crate::lint::Linter;
use crate::plan::{Base, BaseFiles, From, Plan, StageId};
use crate::shell::Budget;
use crate::source::Source;
use crate::{CompileError, CompileOptions};
pub(crate) use from::is_empty;
use outline::StageOutline;
pub(crate) use outline::{Outline, OutlineMount};
use stage::Built;

/// The result of a compilation.
#[derive(Debug, Clone)]
pub(crate) struct LoweredStage {
    pub(crate) state: State,
    pub(crate) image: ImageConfig,
    /// The config of the image that the target starts from, through its stages.
    pub(crate) base: Option<ImageConfig>,
    /// What lists of packages tell of besides the target.
    pub(crate) scans: Vec<(String, State)>,
}

/// What all stages share while they are lowered.
pub(crate) struct Lowering<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) options: &'a CompileOptions,
    pub(crate) source: &'a Source,
    /// The build context as a state.
    context: State,
    /// The paths of the context that are used; `/` means all of it.
    used: BTreeSet<String>,
    built: Vec<Option<Built>>,
    budget: Budget,
    lint: &'a Linter,
    /// What the ignore file of the context leaves out.
    ignored: PatternSet,
    /// What the stages take from the outside, if that is asked for.
    outlines: Option<Vec<StageOutline>>,
}

/// Lowers what the target needs.
///
/// Which paths of the context are used is known only at the end, and the context's vertex must name them. So
/// when the context is used at all, the plan is lowered again with the paths known: cheaper than it sounds,
/// and nothing has to be patched.
pub(crate) fn lower(
    plan: &Plan,
    source: &Source,
    options: &CompileOptions,
    context: &BuildContext,
    lint: &Linter,
) -> Result<LoweredStage, CompileError> {
    let order = plan.order()?;
    let mut first = Lowering::new(plan, source, options, context.placeholder(), lint);
    first.ignored = ignored(context)?;
    first.run(&order)?;
    if first.scans_context() {
        // All of it is looked at.
        first.used.insert("/".to_owned());
    }
    if first.used.is_empty() || !context.depends_on_paths() {
        return first.finish();
    }
    // What is to be said of the file was said the first time.
    let silent = Linter::off();
    let mut second = Lowering::new(plan, source, options, context.state(&first.used), &silent);
    second.run(&order)?;
    second.finish()
}

/// Finds out what the target takes from the outside: arguments, secrets, ssh agents.
pub(crate) fn outline(
    plan: &Plan,
    source: &Source,
    options: &CompileOptions,
    context: &BuildContext,
    lint: &Linter,
) -> Result<Outline, CompileError> {
    let mut lowering = Lowering::new(plan, source, options, context.placeholder(), lint);
    lowering.ignored = ignored(context)?;
    lowering.outlines = Some(plan.stages.iter().map(|_| StageOutline::default()).collect());
    lowering.run(&plan.order()?)?;
    Ok(outline::merge(plan, &lowering.outlines.unwrap_or_default()))
}

fn ignored(context: &BuildContext) -> Result<PatternSet, CompileError> {
    let patterns = match context {
        BuildContext::Local(local) => local.excludes.as_slice(),
        _ => &[],
    };
    PatternSet::parse(patterns).map_err(|error| CompileError::new(error.to_string()))
}

impl<'a> Lowering<'a> {
    fn new(
        plan: &'a Plan,
        source: &'a Source,
        options: &'a CompileOptions,
        context: State,
        lint: &'a Linter,
    ) -> Self {
        let built = plan.stages.iter().map(|_| None).collect();
        Self {
            plan,
            options,
            source,
            context,
            used: BTreeSet::new(),
            built,
            budget: Budget::default(),
            lint,
            ignored: PatternSet::default(),
            outlines: None,
        }
    }

    fn run(&mut self, order: &[StageId]) -> Result<(), CompileError> {
        for id in order {
            let built = self.stage(*id)?;
            self.built[*id] = Some(built);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<LoweredStage, CompileError> {
        let scans = self.scans();
        let built = self.built[self.plan.target].take();
        let Some(mut built) = built else { return Err(CompileError::new("the target stage was not built")) };
        for (name, value) in &self.options.labels {
            built.image.config.labels.insert(name.clone(), value.clone());
        }
        Ok(LoweredStage { state: built.state, image: built.image, base: built.base, scans })
    }

    /// Counts what an instruction makes of the file's values beside expanding them.
    pub(crate) fn spend(&self, cost: usize) -> Result<(), CompileError> {
        self.budget.spend(cost).map_err(CompileError::new)
    }

    /// A stage that is built already.
    pub(crate) fn built(&self, id: StageId) -> Result<&Built, CompileError> {
        self.built[id].as_ref().ok_or_else(|| CompileError::new("a stage is used before it is built"))
    }

    /// Where the files of one instruction come from, reduced to the paths that it uses where that is possible.
    pub(crate) fn files(&mut self, from: From, used: &[&str]) -> Result<State, CompileError> {
        let id = match from {
            From::Context => {
                self.used.extend(used.iter().map(|path| paths::clean_rooted(path)));
                return Ok(self.context.clone());
            }
            From::Stage(id) => id,
        };
        if let Base::Resolved(image) = &self.plan.stages[id].base
            && let BaseFiles::Local(local) = &image.files
            && self.plan.stages[id].steps.is_empty()
        {
            let used: BTreeSet<String> = used.iter().map(|path| paths::clean_rooted(path)).collect();
            return Ok(BuildContext::Local((**local).clone()).state(&used));
        }
        Ok(self.built(id)?.state.clone())
    }
}
