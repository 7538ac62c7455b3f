use rbuild_frontend::{BuildError, ImageQuery};
use rbuild_oci::{ImageConfig, ImageRef};

use super::Shared;
use crate::CompileOptions;
use crate::plan::{BaseFiles, BaseImage, Missing};

impl Shared {
    /// Finds out what a stage's base is.
    pub(super) async fn resolve(
        &self,
        need: &Missing,
        options: &CompileOptions,
    ) -> Result<BaseImage, BuildError> {
        if need.context {
            return self.named_context(need, options).await;
        }
        let place = if options.show_platforms { format!("{} ", need.platform) } else { String::new() };
        let query = ImageQuery {
            reference: need.name.clone(),
            platform: Some(need.platform.clone()),
            mode: options.resolve_mode,
            log_name: format!("[{place}internal] load metadata for {}", need.name),
            want_config: true,
            oci_layout: None,
            policies: Vec::new(),
        };
        let meta = self.bridge.resolve_image(query).await.map_err(|error| self.explain(error, need))?;
        let config = parse_config(&meta.config, &need.name)?;
        let name = ImageRef::parse(&meta.reference)
            .map_err(|error| BuildError::invalid(error.to_string()))?
            .tag_or_latest()
            .with_digest(meta.digest)
            .to_string();
        Ok(BaseImage { config: Some(config), files: BaseFiles::Image(name) })
    }

    /// A name that is almost a stage's was probably meant to be it.
    fn explain(&self, error: BuildError, need: &Missing) -> BuildError {
        let written = ImageRef::parse(&need.name).map(|name| name.name_only().familiar()).unwrap_or_default();
        let stages = || self.parsed.stages.iter().filter(|stage| !stage.from.name.is_empty());
        let near = crate::suggest::nearest(&written, stages().map(|stage| stage.from.name.as_str()), false);
        let Some(near) = near else { return error };
        let message = format!("{} (did you mean {near}?)", error.message);
        let line = stages().find(|stage| stage.from.name == near).map_or(0, |stage| stage.from.lines.first);
        BuildError { message, ..error }.hint(format!("stage `{near}` is defined on line {line}"))
    }
}

/// The config of an image; empty bytes are an image without one.
pub(super) fn parse_config(bytes: &[u8], name: &str) -> Result<ImageConfig, BuildError> {
    let mut config = ImageConfig::parse(bytes)
        .map_err(|error| BuildError::invalid(format!("config of image {name}: {error}")))?;
    if !serde_json::from_slice::<HasRootFs>(bytes).is_ok_and(|fields| fields.rootfs.is_some()) {
        // As it was: what is missing is not made up.
        config.rootfs.kind.clear();
    }
    // Fields that upstream does not know do not outlive a build there either.
    config.extra.clear();
    config.config.extra.clear();
    Ok(config)
}

#[derive(serde::Deserialize)]
struct HasRootFs {
    rootfs: Option<serde::de::IgnoredAny>,
}
