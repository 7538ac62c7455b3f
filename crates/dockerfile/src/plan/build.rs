use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rbuild_frontend::Fault;
use rbuild_oci::{ImageRef, Platform};

use super::{Base, BaseImage, From, GlobalArgs, Missing, Plan, Stage, StageId, Step};
use crate::lint::{self, Linter, Lookups};
use crate::mounts::{MountSource, mount_source};
use crate::parse::{Command, FromCommand, Instruction, Parsed, StageSource, parse_command, parse_trigger};
use crate::shell::{Budget, Lexer, Variables};
use crate::source::Lines;
use crate::{CompileError, CompileOptions, suggest};

/// The name of an empty base.
const SCRATCH: &str = "scratch";

/// Files with more stages than this are not written by people.
const MAX_STAGES: usize = 10_000;
/// Names of stages that an error lists.
const SHOWN_STAGES: usize = 10;

impl Plan {
    /// Plans a file. `contexts` are the names that the request defines.
    pub(crate) fn new(
        parsed: &Parsed,
        options: &CompileOptions,
        contexts: Vec<String>,
        lint: &Linter,
    ) -> Result<Self, CompileError> {
        let too_many = parsed.stages.len() > MAX_STAGES;
        let budget = Budget::default();
        let globals = GlobalArgs::new(parsed, options, &budget)?;
        let escape = parsed.directives.escape;
        let mut plan = Self {
            stages: Vec::new(),
            names: BTreeMap::new(),
            written: parsed.stages.len(),
            target: 0,
            globals,
            budget,
            escape,
            has_mounts: false,
            contexts,
            target_platform: options.target_platform.clone(),
            whole: false,
        };
        if too_many {
            let error = CompileError::new(format!("dockerfile has more than {MAX_STAGES} stages"));
            return Err(error.fault(Fault::DockerfileLimit));
        }
        let lexer = Lexer::new(escape);
        let defaults = plan.globals.defaults();
        lint::check_default_bases(lint, &parsed.stages, &defaults, lexer, &plan.budget);
        for (index, source) in parsed.stages.iter().enumerate() {
            let stage = plan.stage(index, source, options, lint)?;
            if !stage.name.is_empty() {
                plan.names.insert(stage.name.clone(), index);
            }
            plan.stages.push(stage);
        }
        plan.target = plan.find_target(&options.target)?;
        for (index, source) in parsed.stages.iter().enumerate() {
            if matches!(plan.stages[index].base, Base::Context(_)) && plan.stages[index].steps.is_empty() {
                // A named context stands for the whole stage when it bears the stage's name.
                if plan.context_named(&plan.stages[index].name).is_some() {
                    continue;
                }
            }
            let steps = plan.steps(index, &source.instructions, false)?;
            plan.stages[index].steps = steps;
        }
        plan.trigger_stages()?;
        plan.check_cycles()?;
        Ok(plan)
    }

    fn stage(
        &self,
        index: StageId,
        source: &StageSource,
        options: &CompileOptions,
        lint: &Linter,
    ) -> Result<Stage, CompileError> {
        let from = &source.from;
        let lookups = Lookups::new(&self.globals);
        let expanded = Lexer::new(self.escape).expand(&from.base, &lookups, &self.budget);
        lint::check_undeclared(lint, &lookups, |name| self.globals.is_declared(name), from.lines);
        let expanded = expanded.map_err(|error| CompileError::from(error).or_at(from.lines))?;
        let base_name = expanded.text;
        if base_name.is_empty() {
            let message = format!("base name ({}) should not be blank", from.base);
            let error = CompileError::at(from.lines, message).word(&from.base);
            return Err(self.blank(error, &expanded.unset));
        }
        let mut used_args = lookups.found();
        let platform = self.platform(from, options, lint, &mut used_args)?;
        let base = self.base(&from.name, &base_name, Some(&self.names), from.lines)?;
        // An empty file system has none of its own.
        let platform = platform.filter(|_| !matches!(base, Base::Scratch));
        let platform = platform.unwrap_or_else(|| options.target_platform.clone());
        Ok(Stage {
            shown: if from.name.is_empty() { format!("stage-{index}") } else { from.name.clone() },
            name: from.name.clone(),
            base,
            platform,
            original: from.original.clone(),
            lines: Some(from.lines),
            steps: Vec::new(),
            triggered: false,
            implicit: false,
            description: from
                .comments
                .iter()
                .find_map(|c| lint::describes(c, &from.name))
                .unwrap_or("")
                .to_owned(),
            base_name,
            used_args,
        })
    }

    fn platform(
        &self,
        from: &FromCommand,
        options: &CompileOptions,
        lint: &Linter,
        used_args: &mut BTreeSet<String>,
    ) -> Result<Option<Platform>, CompileError> {
        let (written, lines) = (&from.platform, from.lines);
        if written.is_empty() {
            return Ok(None);
        }
        let lookups = Lookups::new(&self.globals);
        let expanded = Lexer::new(self.escape).expand(written, &lookups, &self.budget);
        lint::check_undeclared(lint, &lookups, |name| self.globals.is_declared(name), lines);
        used_args.append(&mut lookups.found());
        let expanded = expanded.map_err(|error| CompileError::from(error).or_at(lines))?;
        lint::check_platform_flag(lint, written, &expanded.text, &lookups, &from.name, lines);
        if expanded.text.is_empty() {
            let hint = expanded
                .unset
                .iter()
                .next()
                .map_or_else(String::new, |unset| suggest::hint(unset, self.globals.names(), true));
            let message = format!("empty platform value from expression {written}{hint}");
            let error = CompileError::at(lines, message).word(written);
            return Err(self.blank(error, &expanded.unset));
        }
        let known = [&options.build_platform, &options.target_platform];
        if let Some(same) = known.into_iter().find(|platform| platform.to_string() == expanded.text) {
            return Ok(Some(same.clone()));
        }
        let parsed = Platform::parse(&expanded.text);
        parsed.map(Some).map_err(|error| {
            CompileError::at(lines, format!("failed to parse platform {}: {error}", expanded.text))
                .fault(Fault::Reference)
                .word(written)
                .hint("platforms are written like linux/amd64 or linux/arm/v7")
        })
    }

    /// An expression of FROM that comes to nothing: says what its variables lack.
    fn blank(&self, mut error: CompileError, unset: &BTreeSet<String>) -> CompileError {
        error = error.fault(Fault::BlankVariable);
        for name in unset {
            error = match suggest::nearest(name, self.globals.names(), true) {
                Some(near) => error.hint(format!("`{name}` is not set; did you mean {near}?")),
                None if self.globals.is_declared(name) => error.hint(format!(
                    "`{name}` has neither a default nor a value: pass --build-arg {name}=VALUE"
                )),
                None => error.hint(format!(
                    "`{name}` is not declared: FROM sees only what an ARG before the first FROM declares"
                )),
            };
        }
        error
    }

    fn base(
        &self,
        name: &str,
        base: &str,
        names: Option<&BTreeMap<String, StageId>>,
        lines: Lines,
    ) -> Result<Base, CompileError> {
        if let Some(context) = self.context_named(name).or_else(|| self.context_named(base)) {
            return Ok(Base::Context(context));
        }
        if let Some(id) = names.and_then(|names| names.get(base)) {
            return Ok(Base::Stage(*id));
        }
        if base == SCRATCH {
            return Ok(Base::Scratch);
        }
        let reference = ImageRef::parse(base).map_err(|error| {
            CompileError::at(
                lines,
                format!("failed to parse stage name {}: {error}", crate::text::quote(base)),
            )
            .fault(Fault::Reference)
            .word(base)
        })?;
        Ok(Base::Image(reference.tag_or_latest().to_string()))
    }

    /// The named context that a name of a stage or an image means.
    fn context_named(&self, name: &str) -> Option<String> {
        if name.is_empty() || self.contexts.is_empty() {
            return None;
        }
        let canonical = |name: &str| ImageRef::parse(name).map(|r| r.tag_or_latest().to_string()).ok();
        let wanted = canonical(name);
        let same = |context: &&String| {
            context.eq_ignore_ascii_case(name) || (wanted.is_some() && canonical(context) == wanted)
        };
        self.contexts.iter().find(same).cloned()
    }

    fn find_target(&self, target: &str) -> Result<StageId, CompileError> {
        if target.is_empty() {
            return Ok(self.stages.len() - 1);
        }
        if let Some(id) = self.names.get(&target.to_lowercase()) {
            return Ok(*id);
        }
        let hint = suggest::hint(target, self.names.keys().map(String::as_str), false);
        let shown = crate::text::quote(target);
        let error = CompileError::new(format!("target stage {shown} could not be found{hint}"));
        Err(error.fault(Fault::UnknownStage).hint(match self.names.is_empty() {
            true => "no stage has a name: FROM image AS name gives it one".to_owned(),
            false => {
                let known: Vec<&str> = self.names.keys().take(SHOWN_STAGES).map(String::as_str).collect();
                let more = if self.names.len() > SHOWN_STAGES { ", …" } else { "" };
                format!("stages of this file are {}{more}", known.join(", "))
            }
        }))
    }

    /// Finds what instructions of a stage read from.
    fn steps(
        &mut self,
        stage: StageId,
        instructions: &[Instruction],
        trigger: bool,
    ) -> Result<Vec<Step>, CompileError> {
        let mut steps = Vec::with_capacity(instructions.len());
        for instruction in instructions {
            let lines = instruction.lines;
            let from = match &instruction.command {
                Command::Copy(copy) => match &copy.from {
                    None => vec![From::Context],
                    Some(name) => vec![From::Stage(self.copied(stage, name, lines)?)],
                },
                Command::Add(_) => vec![From::Context],
                Command::Run(run) => {
                    self.has_mounts |= !run.mounts.is_empty();
                    let sources = run.mounts.iter().map(|mount| self.mounted(stage, mount, lines));
                    sources.collect::<Result<_, _>>()?
                }
                _ => Vec::new(),
            };
            steps.push(Step { instruction: instruction.clone(), from, trigger });
        }
        Ok(steps)
    }

    fn mounted(&mut self, stage: StageId, mount: &str, lines: Lines) -> Result<From, CompileError> {
        Ok(match mount_source(mount) {
            MountSource::Context => From::Context,
            MountSource::Empty => From::Stage(self.named(stage, SCRATCH, false, lines)?),
            MountSource::Named(name) if name.contains('$') => {
                let message = "'from' doesn't support variable expansion, define alias stage instead";
                return Err(CompileError::syntax(lines, message).fault(Fault::Mount).word(name));
            }
            MountSource::Named(name) => From::Stage(self.named(stage, &name, false, lines)?),
        })
    }

    fn copied(&mut self, stage: StageId, name: &str, lines: Lines) -> Result<StageId, CompileError> {
        if name.contains('$') {
            return Err(CompileError::at(
                lines,
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global \
                 scope as a workaround",
            )
            .fault(Fault::FlagValue)
            .word(name));
        }
        self.named(stage, name, true, lines)
    }

    /// The stage that `from=` means: by name, by number, or a new one for an image.
    fn named(
        &mut self,
        stage: StageId,
        name: &str,
        copy: bool,
        lines: Lines,
    ) -> Result<StageId, CompileError> {
        let lower = name.to_lowercase();
        if let Some(id) = self.names.get(&lower) {
            return Ok(*id);
        }
        if name.bytes().all(|b| b.is_ascii_digit()) {
            let index = name.parse::<usize>().ok().filter(|index| *index < self.written);
            return match index {
                Some(index) if index == stage => Err(self.cycle(stage, lines)),
                Some(index) => Ok(index),
                None => Err(CompileError::at(lines, format!("invalid stage index {name}"))
                    .fault(Fault::UnknownStage)
                    .word(name)
                    .hint(format!(
                        "stages are counted from 0, the last one of this file is {}",
                        self.written.saturating_sub(1)
                    ))),
            };
        }
        let platform = self.target_platform.clone();
        let base = self.base("", name, None, lines)?;
        if self.stages.len() >= MAX_STAGES {
            let message =
                format!("dockerfile copies and mounts from more than {MAX_STAGES} stages and images");
            return Err(CompileError::at(lines, message));
        }
        self.stages.push(Stage {
            name: String::new(),
            shown: String::new(),
            base,
            platform,
            original: String::new(),
            lines: copy.then_some(lines),
            steps: Vec::new(),
            triggered: false,
            implicit: true,
            base_name: name.to_owned(),
            used_args: BTreeSet::new(),
            description: String::new(),
        });
        Ok(self.stages.len() - 1)
    }

    pub(super) fn cycle(&self, stage: StageId, lines: Lines) -> CompileError {
        let shown = &self.stages[stage].shown;
        CompileError::at(lines, format!("circular dependency detected on stage: {shown}"))
            .fault(Fault::Cycle)
            .hint("a stage needs its own result, perhaps through others: split it")
    }

    /// What the target needs to know of the world.
    pub(crate) fn missing(&self) -> Result<Vec<Missing>, CompileError> {
        let order = self.order()?;
        let mut missing: Vec<Missing> = Vec::new();
        let mut known = HashMap::new();
        for id in order {
            let stage = &self.stages[id];
            let (name, context) = match &stage.base {
                Base::Image(name) => (name, false),
                Base::Context(name) => (name, true),
                _ => continue,
            };
            let at = *known.entry((name, context, &stage.platform)).or_insert(missing.len());
            match missing.get_mut(at) {
                Some(known) => known.stages.push(id),
                None => missing.push(Missing {
                    stages: vec![id],
                    name: name.clone(),
                    context,
                    platform: stage.platform.clone(),
                    lines: stage.lines,
                }),
            }
        }
        Ok(missing)
    }

    /// Hands over what was missing. Triggers of the base become the stage's first steps.
    pub(crate) fn provide(&mut self, stage: StageId, image: Arc<BaseImage>) -> Result<(), CompileError> {
        let triggers = image.config.as_ref().map(|c| c.config.on_build.clone()).unwrap_or_default();
        self.stages[stage].base = Base::Resolved(image);
        if !triggers.is_empty() && !self.stages[stage].implicit {
            self.put_triggers(stage, &triggers)?;
        }
        Ok(())
    }

    /// Triggers that a stage of this file leaves to those based on it.
    fn trigger_stages(&mut self) -> Result<(), CompileError> {
        for id in 0..self.stages.len() {
            let Base::Stage(base) = self.stages[id].base else { continue };
            let triggers: Vec<String> = self.stages[base]
                .steps
                .iter()
                .filter_map(|step| match &step.instruction.command {
                    Command::Onbuild(text) => Some(text.clone()),
                    _ => None,
                })
                .collect();
            if !triggers.is_empty() {
                self.put_triggers(id, &triggers)?;
            }
        }
        Ok(())
    }

    fn put_triggers(&mut self, stage: StageId, triggers: &[String]) -> Result<(), CompileError> {
        if std::mem::replace(&mut self.stages[stage].triggered, true) {
            return Ok(());
        }
        let lines = self.stages[stage].lines.unwrap_or(Lines::one(1));
        let mut instructions = Vec::new();
        for text in triggers {
            let node = parse_trigger(text, self.escape, lines)?;
            // Of what ONBUILD refuses, images made by other tools may have the rest; upstream takes it.
            if node.keyword == "from" {
                let error = CompileError::at(lines, "FROM isn't allowed as an ONBUILD trigger");
                return Err(error.fault(Fault::Trigger));
            }
            let command = parse_command(&node).map_err(|error| error.moved_to(lines))?;
            let original = node.original.clone();
            instructions.push(Instruction { command, original, lines, comments: Vec::new() });
        }
        let mut steps = self.steps(stage, &instructions, true)?;
        steps.append(&mut self.stages[stage].steps);
        self.stages[stage].steps = steps;
        Ok(())
    }
}
