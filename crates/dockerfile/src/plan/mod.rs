//! Second pass: which stages there are, what each is based on and copies from, and which of them the target
//! needs. Nothing is executed or fetched; what must be known of the world is listed by [`Plan::missing`] and
//! handed back with [`Plan::provide`].

mod args;
mod build;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rbuild_llb::State;
use rbuild_oci::{ImageConfig, ImageRef, Platform};

pub(crate) use args::GlobalArgs;

use crate::context::LocalContext;
use crate::parse::Instruction;
use crate::shell::Budget;
use crate::source::Lines;

/// A stage's place in the plan.
pub(crate) type StageId = usize;

/// All stages of a file, and those that `from=` made up.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) stages: Vec<Stage>,
    /// The stage that a name means: the last of that name.
    names: BTreeMap<String, StageId>,
    /// How many stages are written in the file; the others are made up for names in `from=`.
    written: usize,
    pub(crate) target: StageId,
    pub(crate) globals: GlobalArgs,
    /// What expanding names of bases has cost.
    budget: Budget,
    pub(crate) escape: char,
    target_platform: Platform,
    /// Some RUN has a mount: upstream counts its source as a stage, so that names of steps show theirs.
    pub(crate) has_mounts: bool,
    /// Names that the request gives a meaning of its own.
    pub(crate) contexts: Vec<String>,
    /// Stages that the target does not need are looked at too, for checks of the whole file.
    whole: bool,
}

/// One stage.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Lower case; empty if it has none.
    pub(crate) name: String,
    /// The name or `stage-N`.
    pub(crate) shown: String,
    pub(crate) base: Base,
    /// What its image is for; a stage upon a stage runs on what that one runs on.
    pub(crate) platform: Platform,
    pub(crate) original: String,
    pub(crate) lines: Option<Lines>,
    pub(crate) steps: Vec<Step>,
    /// The triggers of the base were put before the steps.
    pub(crate) triggered: bool,
    /// Made up for a name in `from=`.
    pub(crate) implicit: bool,
    /// The name of its base, variables expanded.
    pub(crate) base_name: String,
    /// ARGs from before the first FROM that its base and platform are made of.
    pub(crate) used_args: BTreeSet<String>,
    /// What the comment above says of it.
    pub(crate) description: String,
}

/// An instruction with the stages it reads from.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) instruction: Instruction,
    /// For COPY: its `--from`. For RUN: one per mount.
    pub(crate) from: Vec<From>,
    /// Comes from a base's ONBUILD.
    pub(crate) trigger: bool,
}

/// Where files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// The build context.
    Context,
    /// A stage.
    Stage(StageId),
}

/// What a stage starts from.
#[derive(Debug)]
pub(crate) enum Base {
    /// Nothing.
    Scratch,
    /// Another stage.
    Stage(StageId),
    /// An image that is not resolved yet.
    Image(String),
    /// A named context that is not resolved yet.
    Context(String),
    /// A known image.
    Resolved(Arc<BaseImage>),
}

/// An image (or other file system) as the base of a stage.
#[derive(Debug, Clone)]
pub(crate) struct BaseImage {
    /// Its config, if it has one.
    pub(crate) config: Option<ImageConfig>,
    pub(crate) files: BaseFiles,
}

/// Where the files of a base are.
#[derive(Debug, Clone)]
pub(crate) enum BaseFiles {
    /// In an image of this canonical name.
    Image(String),
    /// In a state that is made already.
    State(Box<State>),
    /// In a directory of the client; each use names the paths that it needs.
    Local(Box<LocalContext>),
}

/// What must be known before lowering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The stages that start from it.
    pub(crate) stages: Vec<StageId>,
    pub(crate) name: String,
    /// A named context rather than an image.
    pub(crate) context: bool,
    pub(crate) platform: Platform,
    pub(crate) lines: Option<Lines>,
}

impl Missing {
    /// The name as a Dockerfile has it, as far as that can be told: without the default domain and tag.
    pub(crate) fn written(&self) -> String {
        let short = ImageRef::parse(&self.name).map_or_else(|_| self.name.clone(), |name| name.familiar());
        short.strip_suffix(":latest").map(str::to_owned).unwrap_or(short)
    }
}
