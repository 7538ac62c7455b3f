use std::collections::BTreeSet;

use super::Lowering;
use crate::plan::{Plan, StageId};
use crate::source::Lines;

/// What a target takes from the outside, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub(crate) args: Vec<OutlineArg>,
    pub(crate) secrets: Vec<OutlineMount>,
    pub(crate) ssh: Vec<OutlineMount>,
}

/// An ARG.
#[derive(Debug, Clone)]
pub(crate) struct OutlineArg {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) description: String,
    pub(crate) lines: Lines,
}

/// A secret or an ssh agent.
#[derive(Debug, Clone)]
pub(crate) struct OutlineMount {
    pub(crate) id: String,
    pub(crate) required: bool,
    pub(crate) lines: Lines,
}

/// The same of one stage alone.
#[derive(Debug, Clone, Default)]
pub(super) struct StageOutline {
    pub(super) args: Vec<OutlineArg>,
    /// ARGs that only repeat one from before the first FROM.
    pub(super) globals: BTreeSet<String>,
    pub(super) secrets: Vec<OutlineMount>,
    pub(super) ssh: Vec<OutlineMount>,
}

impl StageOutline {
    /// An ARG with its own value, or with none; the last one of a name counts.
    pub(super) fn own(&mut self, arg: OutlineArg) {
        self.globals.remove(&arg.name);
        match self.args.iter_mut().find(|known| known.name == arg.name) {
            Some(known) => *known = arg,
            None => self.args.push(arg),
        }
    }

    /// An ARG that takes the value from before the first FROM.
    pub(super) fn global(&mut self, name: &str) {
        self.args.retain(|known| known.name != name);
        self.globals.insert(name.to_owned());
    }
}

fn add(list: &mut Vec<OutlineMount>, mount: &OutlineMount) {
    // The first one counts, whether it is required or not.
    if list.iter().all(|known| known.id != mount.id) {
        list.push(mount.clone());
    }
}

impl Lowering<'_> {
    /// The outline of a stage, if one is wanted.
    pub(super) fn outline_of(&mut self, stage: StageId) -> Option<&mut StageOutline> {
        self.outlines.as_mut().and_then(|outlines| outlines.get_mut(stage))
    }
}

/// Puts the outlines of the stages that the target needs together: its own words win, then those of its base, then
/// those of the stages that it copies from.
pub(super) fn merge(plan: &Plan, outlines: &[StageOutline]) -> Outline {
    let mut all = Outline::default();
    let mut todo = vec![plan.target];
    let mut seen = BTreeSet::new();
    while let Some(stage) = todo.pop() {
        let Some(outline) = outlines.get(stage).filter(|_| seen.insert(stage)) else { continue };
        for arg in &outline.args {
            add_arg(&mut all.args, arg.clone());
        }
        for name in outline.globals.iter().chain(&plan.stages[stage].used_args) {
            add_global(plan, &mut all.args, name);
        }
        outline.secrets.iter().for_each(|mount| add(&mut all.secrets, mount));
        outline.ssh.iter().for_each(|mount| add(&mut all.ssh, mount));
        todo.extend(plan.needed_by(stage).into_iter().rev());
    }
    all.args.sort_by_key(|arg| arg.lines);
    all.secrets.sort_by_key(|mount| mount.lines);
    all.ssh.sort_by_key(|mount| mount.lines);
    all
}

fn add_arg(args: &mut Vec<OutlineArg>, arg: OutlineArg) {
    if args.iter().all(|known| known.name != arg.name) {
        args.push(arg);
    }
}

/// An ARG from before the first FROM, and those that its value is made of.
fn add_global(plan: &Plan, args: &mut Vec<OutlineArg>, name: &str) {
    let mut todo = vec![name];
    let mut seen = BTreeSet::new();
    while let Some(name) = todo.pop() {
        let Some(place) = plan.globals.place(name).filter(|_| seen.insert(name)) else { continue };
        let value = crate::shell::Variables::get(&plan.globals, name).unwrap_or_default().to_owned();
        let (lines, description) = (place.lines, place.description.clone());
        add_arg(args, OutlineArg { name: name.to_owned(), value, description, lines });
        todo.extend(place.made_of.iter().map(String::as_str));
    }
}
