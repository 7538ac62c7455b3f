use rbuild_frontend::Fault;
use rbuild_llb::{Constraints, ProgressGroup, State};
use rbuild_oci::{ImageConfig, Platform};

use super::Lowering;
use crate::lint::{Lookups, StageLint, Undefined};
use crate::parse::{Command, Instruction};
use crate::plan::{Base, Stage, StageId, Step};
use crate::shell::{Expansion, Lexer, Variables};
use crate::source::Lines;
use crate::{CompileError, text};

/// The description's key for the instruction as it is written.
const COMMAND_KEY: &str = "com.docker.dockerfile.v1.command";
/// What a process finds when nobody says otherwise.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A lowered stage.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(super) state: State,
    pub(super) image: ImageConfig,
    pub(super) base: Option<ImageConfig>,
    pub(super) platform: Platform,
    /// Started from nothing: upstream leaves the platform out of the names of its processes.
    pub(super) from_scratch: bool,
    /// CMD was set in this stage.
    pub(super) cmd_set: bool,
    /// ARGs so far with their values; stages based on this one see them too.
    pub(super) args: Vec<(String, Option<String>)>,
    pub(super) checks: StageLint,
}

/// A stage while it is lowered.
pub(super) struct StageLowering<'a, 'b> {
    pub(super) cx: &'b mut Lowering<'a>,
    pub(super) id: StageId,
    pub(super) stage: &'a Stage,
    pub(super) built: Built,
    /// Number of the step that is lowered.
    number: usize,
    total: usize,
    pub(super) ignore_cache: bool,
    /// Where the instruction that is lowered stands.
    pub(super) lines: Lines,
}

/// Variables as a state has them.
pub(super) struct EnvOf<'a>(pub(super) &'a State);

impl Variables for EnvOf<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get_env(name)
    }
    fn names(&self) -> Vec<&str> {
        self.0.env().iter().map(|(name, _)| name.as_str()).collect()
    }
}

fn makes_step(command: &Command) -> bool {
    matches!(command, Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_))
}

impl<'a> Lowering<'a> {
    pub(super) fn stage(&mut self, id: StageId) -> Result<Built, CompileError> {
        let plan = self.plan;
        let stage = &plan.stages[id];
        let own = stage.steps.iter().filter(|step| !step.trigger);
        let own = own.filter(|step| makes_step(&step.instruction.command)).count();
        let triggers = stage.steps.iter().filter(|step| step.trigger).count();
        let has_base = !matches!(stage.base, Base::Scratch | Base::Stage(_));
        // Upstream counts each trigger as a step, but only after the base was named.
        let total = own + usize::from(has_base);
        let ignore_cache = !stage.implicit && self.options.ignores_cache(&stage.name);
        let name = stage_name(self, stage, Some((&stage.platform, None)), 1, total);
        let (built, is_step) = self.base(stage, &name)?;
        let total = total + triggers;
        let number = usize::from(is_step);
        let lines = stage.lines.unwrap_or(Lines::one(1));
        let mut lowering = StageLowering { cx: self, id, stage, built, number, total, ignore_cache, lines };
        for step in &stage.steps {
            let fault = match step.instruction.command {
                Command::Add(_) | Command::Copy(_) => Fault::AddSource,
                _ => Fault::Value,
            };
            lowering.step(step).map_err(|error| error.or_at(step.instruction.lines).fault(fault))?;
        }
        Ok(lowering.built)
    }
}

/// `[platform stage n/m] `.
fn stage_name(
    cx: &Lowering<'_>,
    stage: &Stage,
    platforms: Option<(&Platform, Option<String>)>,
    number: usize,
    total: usize,
) -> String {
    let mut name = String::from("[");
    if let (true, Some((platform, target))) = (cx.options.show_platforms, platforms) {
        name.push_str(&platform.to_string());
        if let Some(target) = target {
            name.push_str("->");
            name.push_str(&target);
        }
        name.push(' ');
    }
    if cx.plan.stages.len() > 1 || cx.plan.has_mounts {
        name.push_str(&stage.shown);
        name.push(' ');
    }
    let width = total.to_string().len();
    format!("{name}{number:>width$}/{total}] ")
}

impl StageLowering<'_, '_> {
    fn step(&mut self, step: &Step) -> Result<(), CompileError> {
        let instruction = &step.instruction;
        self.lines = instruction.lines;
        if matches!(instruction.command, Command::Add(_) | Command::Copy(_) | Command::Run(_)) {
            self.number += 1;
        }
        match &instruction.command {
            Command::Env(pairs) => self.env(instruction, pairs),
            Command::Label(pairs) => self.label(instruction, pairs),
            Command::Maintainer(name) => self.maintainer(name),
            Command::Add(copy) => self.copy(step, copy, true),
            Command::Copy(copy) => self.copy(step, copy, false),
            Command::Onbuild(text) => {
                self.built.image.config.on_build.push(text.clone());
                Ok(())
            }
            Command::Workdir(path) => self.workdir(step, path),
            Command::Run(run) => self.run(step, run),
            Command::Cmd(form) => self.cmd(form),
            Command::Entrypoint(form) => self.entrypoint(form),
            Command::Healthcheck(check) => self.healthcheck(check),
            Command::Expose(ports) => self.expose(ports),
            Command::User(user) => self.user(user),
            Command::Volume(paths) => self.volume(paths),
            Command::StopSignal(signal) => self.stop_signal(signal),
            Command::Arg(args) => self.arg(instruction, args),
            Command::Shell(words) => self.shell(words),
        }
    }

    pub(super) fn escape(&self) -> char {
        self.cx.plan.escape
    }

    /// A value with its variables expanded and its quotes resolved.
    pub(super) fn expand(&self, text: &str) -> Result<String, CompileError> {
        self.expand_with(Lexer::new(self.escape()), text).map(|expansion| expansion.text)
    }

    /// The same as another reader has it.
    pub(super) fn expand_with(&self, lexer: Lexer, text: &str) -> Result<Expansion, CompileError> {
        let env = EnvOf(&self.built.state);
        let lookups = Lookups::new(&env);
        let expanded = lexer.expand(text, &lookups, &self.cx.budget);
        // An ARG without a value is declared.
        let declared = |name: &str| self.built.args.iter().any(|(known, _)| known == name);
        Undefined::check(self.cx.lint, &lookups, declared, self.lines);
        Ok(expanded?)
    }

    /// A value as words.
    pub(super) fn expand_words(&self, text: &str) -> Result<Vec<String>, CompileError> {
        let env = EnvOf(&self.built.state);
        Ok(Lexer::new(self.escape()).expand_words(text, &env, &self.cx.budget)?)
    }

    /// The name of a step: its place, then the instruction and `summary` with known variables filled in.
    pub(super) fn step_name(&self, step: &Step, summary: &str) -> String {
        let trigger = if step.trigger { "ONBUILD " } else { "" };
        let platformless = self.built.from_scratch && matches!(step.instruction.command, Command::Run(_));
        format!("{}{trigger}{}", self.place_with(!platformless), self.shown(&step.instruction, summary))
    }

    /// Counts a step that is one only under conditions.
    pub(super) fn next_step(&mut self) {
        self.number += 1;
    }

    /// `[stage n/m] `.
    pub(super) fn place(&self) -> String {
        self.place_with(true)
    }

    fn place_with(&self, show_platform: bool) -> String {
        let platforms = (&self.built.platform, foreign_target(&self.built));
        let platforms = Some(platforms).filter(|_| show_platform);
        stage_name(self.cx, self.stage, platforms, self.number, self.total)
    }

    /// The instruction as progress shows it.
    fn shown(&self, instruction: &Instruction, summary: &str) -> String {
        let text = format!("{}{summary}", instruction.original);
        let lexer = match instruction.command {
            Command::Run(_) => Lexer::shown_command(self.escape()),
            _ => Lexer::new(self.escape()),
        };
        let env = EnvOf(&self.built.state);
        let filled = lexer.expand(&text, &env, &self.cx.budget).map_or_else(|_| text.clone(), |e| e.text);
        text::uppercase_first_word(&filled)
    }

    /// Constraints of a vertex that an instruction makes.
    pub(super) fn constraints(&self, step: &Step, name: String) -> Constraints {
        let constraints = Constraints::default()
            .custom_name(name)
            .location(self.cx.source.location(step.instruction.lines));
        if self.ignore_cache { constraints.ignore_cache() } else { constraints }
    }

    pub(super) fn group(&self, name: &str, weak: bool) -> ProgressGroup {
        let id = rbuild_digest::Digest::of(format!("{name}\0{}", self.stage.shown)).hex();
        ProgressGroup { id: id[..25].to_owned(), name: name.to_owned(), weak }
    }
}

/// The platform that a step on another one makes something for, as far as it was told (`ARG TARGETARCH`).
fn foreign_target(built: &Built) -> Option<String> {
    let given = |name: &str| built.state.get_env(name).filter(|value| !value.is_empty());
    let own = &built.platform;
    let mut target = own.clone();
    if let Some(platform) = given("TARGETPLATFORM").and_then(|text| Platform::parse(text).ok()) {
        target = platform;
    }
    if let Some(os) = given("TARGETOS") {
        os.clone_into(&mut target.os);
    }
    if let Some(architecture) = given("TARGETARCH") {
        architecture.clone_into(&mut target.architecture);
        target.variant = given("TARGETVARIANT").unwrap_or_default().to_owned();
    }
    let target = target.normalize();
    if target.os != own.os {
        return Some(target.to_string());
    }
    let same = target.architecture == own.architecture && target.variant == own.variant;
    let variant = if target.variant.is_empty() { String::new() } else { format!("/{}", target.variant) };
    (!same).then(|| format!("{}{variant}", target.architecture))
}

/// Adds the instruction as it is written.
pub(super) fn with_command(constraints: Constraints, text: &str) -> Constraints {
    constraints.description(COMMAND_KEY, text)
}
