use rbuild_frontend::ResolveMode;
use rbuild_llb::{Constraints, ImageOptions, ImageResolveMode, SourceLocation, State};
use rbuild_oci::{ImageConfig, Platform};

use super::Lowering;
use super::stage::{Built, DEFAULT_PATH, with_command};
use crate::CompileError;
use crate::lint::StageLint;
use crate::plan::{Base, BaseFiles, BaseImage, Stage};

impl Lowering<'_> {
    /// What a stage starts from, and whether that is a step of it.
    pub(super) fn base(&mut self, stage: &Stage, place: &str) -> Result<(Built, bool), CompileError> {
        match &stage.base {
            Base::Scratch => Ok((self.scratch(&self.options.target_platform), false)),
            Base::Stage(id) => Ok((self.on_stage(*id)?, false)),
            Base::Resolved(image) => self.on_image(stage, image, place),
            Base::Image(name) | Base::Context(name) => {
                Err(CompileError::new(format!("the base {name} was not resolved")))
            }
        }
    }

    fn scratch(&self, platform: &Platform) -> Built {
        let mut image = ImageConfig::new(platform.clone());
        image.config.env = vec![format!("PATH={DEFAULT_PATH}")];
        image.config.working_dir = "/".to_owned();
        let state = State::scratch().platform(platform.clone()).add_env("PATH", DEFAULT_PATH);
        Built {
            state,
            image,
            base: None,
            platform: platform.clone(),
            from_scratch: true,
            cmd_set: false,
            args: Vec::new(),
            checks: StageLint::default(),
        }
    }

    fn on_stage(&self, id: usize) -> Result<Built, CompileError> {
        let base = self.built(id)?;
        let mut built = base.clone();
        built.image.config.on_build.clear();
        built.cmd_set = false;
        built.checks = base.checks.based_on();
        // `--platform` of a stage upon a stage changes nothing.
        // ARGs of the base stay, unless the image has a variable of the same name.
        built.state = with_config(built.state, &built.image).platform(built.platform.clone());
        Ok(built)
    }

    fn on_image(&self, stage: &Stage, base: &BaseImage, place: &str) -> Result<(Built, bool), CompileError> {
        let mut image = base.config.clone().unwrap_or_else(|| {
            let mut image = ImageConfig::new(self.options.target_platform.clone());
            image.config.env = vec![format!("PATH={DEFAULT_PATH}")];
            image.config.working_dir = "/".to_owned();
            image
        });
        let original = image.clone();
        if !image.config.env.iter().any(|entry| entry.starts_with("PATH=")) {
            image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        let empty = base.config.as_ref().is_some_and(is_empty);
        let state = match &base.files {
            BaseFiles::State(state) => (**state).clone(),
            BaseFiles::Local(local) => local.state(Vec::new()),
            BaseFiles::Image(_) if empty => State::scratch(),
            BaseFiles::Image(name) => self.image(stage, name, place)?,
        };
        image.config.on_build.clear();
        image.created = None;
        // In its usual spelling; what was asked for wins over what the base says.
        image.platform = image.platform.normalize();
        if self.options.platform_given || original.platform.architecture.is_empty() {
            image.platform = self.options.target_platform.clone();
        }
        let state = with_config(state, &image).platform(stage.platform.clone());
        let is_step = matches!(base.files, BaseFiles::Image(_)) && !empty && !stage.implicit;
        let platform = stage.platform.clone();
        let base = Some(original);
        let built = Built {
            state,
            image,
            base,
            platform,
            from_scratch: empty,
            cmd_set: false,
            args: Vec::new(),
            checks: StageLint::default(),
        };
        Ok((built, is_step))
    }

    fn image(&self, stage: &Stage, name: &str, place: &str) -> Result<State, CompileError> {
        let place = if stage.implicit { "" } else { place };
        let constraints = with_command(Constraints::default(), &stage.original)
            .custom_name(format!("{place}FROM {name}"))
            .platform(stage.platform.clone());
        let location = match stage.lines {
            Some(lines) => self.source.location(lines),
            None => SourceLocation { info: self.source.info.clone(), ranges: Vec::new() },
        };
        let resolve_mode = match self.options.resolve_mode {
            ResolveMode::Default => ImageResolveMode::Default,
            ResolveMode::ForcePull => ImageResolveMode::ForcePull,
            ResolveMode::PreferLocal => ImageResolveMode::PreferLocal,
        };
        let constraints = constraints.location(location);
        let options = ImageOptions { resolve_mode, constraints, ..ImageOptions::default() };
        State::image(name, options).map_err(|error| CompileError::new(error.to_string()))
    }
}

/// An image without any layer is an empty file system: nothing has to be pulled.
pub(crate) fn is_empty(image: &ImageConfig) -> bool {
    image.rootfs.diff_ids.is_empty() && image.history.iter().all(|entry| entry.empty_layer)
}

/// A state whose processes see what an image's containers see.
fn with_config(state: State, image: &ImageConfig) -> State {
    let mut state = state;
    for entry in &image.config.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        if !name.is_empty() {
            state = state.add_env(name, value);
        }
    }
    if !image.config.working_dir.is_empty() {
        state = state.dir(&image.config.working_dir);
    }
    if !image.config.user.is_empty() {
        state = state.user(&image.config.user);
    }
    state
}
