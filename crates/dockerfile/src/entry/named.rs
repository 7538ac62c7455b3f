use rbuild_frontend::{BuildError, ImageQuery};
use rbuild_llb::{Constraints, ImageOptions, ImageResolveMode, OciLayoutOptions, State};
use rbuild_oci::ImageRef;

use super::Shared;
use super::images::parse_config;
use super::load::state_of;
use super::remote;
use super::request::NamedContext;
use crate::CompileOptions;
use crate::context::LocalContext;
use crate::plan::{BaseFiles, BaseImage, Missing};

impl Shared {
    /// What a named context stands for.
    pub(super) async fn named_context(
        &self,
        need: &Missing,
        options: &CompileOptions,
    ) -> Result<BaseImage, BuildError> {
        let same = |context: &&NamedContext| context.name == need.name;
        let exact = |context: &&NamedContext| context.platform.as_ref() == Some(&need.platform);
        let contexts = &self.build.contexts;
        let context = contexts.iter().filter(same).find(exact);
        let context = context.or_else(|| contexts.iter().filter(same).find(|c| c.platform.is_none()));
        let Some(context) = context else {
            let platform = &need.platform;
            return Err(BuildError::invalid(format!("context {} is not defined for {platform}", need.name)));
        };
        let (kind, rest) = context.value.split_once(':').unwrap_or((&context.value, ""));
        match kind {
            "docker-image" => self.image_context(context, rest.trim_start_matches("//"), need, options).await,
            "oci-layout" => self.layout_context(context, rest.trim_start_matches("//"), need).await,
            "local" => self.local_context(context, rest).await,
            "input" => self.input_context(context, rest),
            "http" | "https" if !remote::is_git(&context.value) => Ok(Self::http_context(context)),
            // Upstream refuses `ssh://` here, which it takes everywhere else.
            "git" | "http" | "https" | "ssh" => Self::git_context(context),
            _ if remote::is_git(&context.value) => Self::git_context(context),
            _ => Err(BuildError::invalid(format!("unsupported context source {kind} for {}", context.name))),
        }
    }

    async fn image_context(
        &self,
        context: &NamedContext,
        image: &str,
        need: &Missing,
        options: &CompileOptions,
    ) -> Result<BaseImage, BuildError> {
        let reference = ImageRef::parse(image).map_err(|error| BuildError::invalid(error.to_string()))?;
        let query = ImageQuery {
            reference: reference.tag_or_latest().to_string(),
            platform: Some(need.platform.clone()),
            mode: options.resolve_mode,
            log_name: format!("[context {}] load metadata for {image}", context.name),
            want_config: true,
            oci_layout: None,
            policies: Vec::new(),
        };
        let meta = self.bridge.resolve_image(query).await?;
        let config = parse_config(&meta.config, image)?;
        let constraints = Constraints::default()
            .custom_name(format!("[context {}] {image}", context.name))
            .platform(need.platform.clone());
        let image_options =
            ImageOptions { resolve_mode: mode(options), constraints, ..ImageOptions::default() };
        // Pinned, so that what was described is what is used.
        let pinned =
            ImageRef::parse(&meta.reference).map_err(|error| BuildError::invalid(error.to_string()))?;
        let pinned = pinned.tag_or_latest().with_digest(meta.digest).to_string();
        let state = State::image(&pinned, image_options).map_err(|e| BuildError::invalid(e.to_string()))?;
        Ok(BaseImage { config: Some(config), files: BaseFiles::State(Box::new(state)) })
    }

    /// The file behind a URL, as it is: upstream unpacks no named archives, and names all such files `context`.
    fn http_context(context: &NamedContext) -> BaseImage {
        let url = &context.value;
        let step = format!("[context {}] {}", context.name, remote::redacted(url));
        BaseImage { config: None, files: BaseFiles::State(Box::new(remote::fetched(url, step))) }
    }

    fn git_context(context: &NamedContext) -> Result<BaseImage, BuildError> {
        let files = super::git::state(&context.value, false)?;
        Ok(BaseImage { config: None, files: BaseFiles::State(Box::new(files)) })
    }

    async fn layout_context(
        &self,
        context: &NamedContext,
        layout: &str,
        need: &Missing,
    ) -> Result<BaseImage, BuildError> {
        let parsed = layout.split_once('@').and_then(|(name, digest)| {
            let store = name.split(':').next().unwrap_or(name);
            Some((store.to_owned(), rbuild_digest::Digest::parse(digest).ok()?))
        });
        let Some((store, digest)) = parsed else {
            return Err(BuildError::invalid(format!("oci-layout reference \"{layout}\" has no digest")));
        };
        let named = ImageRef::parse(&context.name).map_err(|error| BuildError::invalid(error.to_string()))?;
        let reference = named.name_only().with_digest(digest).to_string();
        let session = self.build.session.clone();
        let query = ImageQuery {
            reference: reference.clone(),
            platform: Some(need.platform.clone()),
            mode: rbuild_frontend::ResolveMode::Default,
            log_name: format!("[context {}] load metadata for {reference}", context.name),
            want_config: true,
            oci_layout: Some((session.clone(), store.clone())),
            policies: Vec::new(),
        };
        let meta = self.bridge.resolve_image(query).await?;
        let config = parse_config(&meta.config, &reference)?;
        let constraints = Constraints::default()
            .custom_name(format!("[context {}] OCI load from client", context.name))
            .platform(need.platform.clone());
        let options = OciLayoutOptions {
            session_id: session,
            store_id: store,
            constraints,
            ..OciLayoutOptions::default()
        };
        let state = State::oci_layout(&reference, options);
        Ok(BaseImage { config: Some(config), files: BaseFiles::State(Box::new(state)) })
    }

    async fn local_context(&self, context: &NamedContext, local: &str) -> Result<BaseImage, BuildError> {
        let session = self.build.session_of(local);
        let hint = format!("context:{}-", context.name);
        let step = format!("[context {}] load .dockerignore", context.name);
        let excludes =
            self.loader.ignore_file(local, &session, &format!("{hint}.dockerignore"), step).await?;
        let files = LocalContext {
            name: local.to_owned(),
            session,
            shared_key_hint: hint,
            step: format!("[context {}] load from client", context.name),
            excludes,
        };
        Ok(BaseImage { config: None, files: BaseFiles::Local(Box::new(files)) })
    }

    fn input_context(&self, context: &NamedContext, input: &str) -> Result<BaseImage, BuildError> {
        let Some(definition) = self.build.inputs.get(input) else {
            return Err(BuildError::invalid(format!("invalid input {input} for {}", context.name)));
        };
        let config = match self.build.options.get(&format!("input-metadata:{input}")) {
            Some(metadata) => input_config(metadata, input)?,
            None => None,
        };
        Ok(BaseImage { config, files: BaseFiles::State(Box::new(state_of(definition)?)) })
    }
}

/// The image config that belongs to an input: metadata is a JSON map of base64 values.
fn input_config(metadata: &str, input: &str) -> Result<Option<rbuild_oci::ImageConfig>, BuildError> {
    let invalid = |error: String| BuildError::invalid(format!("invalid metadata of input {input}: {error}"));
    let map: std::collections::BTreeMap<String, String> =
        serde_json::from_str(metadata).map_err(|error| invalid(error.to_string()))?;
    let Some(text) = map.get("containerimage.config") else { return Ok(None) };
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text)
        .map_err(|error| invalid(error.to_string()))?;
    parse_config(&bytes, input).map(Some)
}

fn mode(options: &CompileOptions) -> ImageResolveMode {
    match options.resolve_mode {
        rbuild_frontend::ResolveMode::Default => ImageResolveMode::Default,
        rbuild_frontend::ResolveMode::ForcePull => ImageResolveMode::ForcePull,
        rbuild_frontend::ResolveMode::PreferLocal => ImageResolveMode::PreferLocal,
    }
}
