//! The image config as it is finally written: the frontend's, with the layers that there really are.

use rbuild_digest::Digest;
use rbuild_oci::{ImageConfig, Platform, format_time};

use crate::history::{self, LayerFacts};
use crate::{ExportError, Result};

/// What a config is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// The frontend's JSON.
    pub(crate) given: Option<&'a [u8]>,
    /// JSON of the base image's config.
    pub(crate) base: Option<&'a [u8]>,
    pub(crate) platform: Option<&'a Platform>,
    /// Layers, lowest first.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) layers: Vec<LayerFacts>,
    /// New times later than this become this.
    pub(crate) epoch: Option<i64>,
    /// Name and value of a field to be added: cache that travels in the image.
    pub(crate) inline_cache: Option<(String, String)>,
}

/// The search path of Linux images, as upstream sets it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where upstream keeps cache in an image. That of a base image says nothing about this one's layers.
const INHERITED_CACHE: &str = "moby.buildkit.cache.v0";

/// The bytes of the config blob. Without a config from a frontend there is a plain one for the platform.
pub(crate) fn finish(parts: Parts<'_>) -> Result<Vec<u8>> {
    let platform = || parts.platform.cloned().unwrap_or_else(Platform::host);
    let mut image = match parts.given {
        Some(bytes) => parse(bytes, "the frontend's image config")?,
        None => plain(platform()),
    };
    if image.platform.os.is_empty() || image.platform.architecture.is_empty() {
        image.platform = platform();
    }
    image.rootfs.kind = "layers".into();
    image.rootfs.diff_ids = parts.diff_ids;
    image.history = history::complete(&image.history, &parts.layers);
    if let Some(epoch) = parts.epoch {
        let base = parts.base.map(|bytes| parse(bytes, "the base's image config")).transpose()?;
        let base = base.map(|base| base.history).unwrap_or_default();
        history::cut_times(&mut image.history, &base, epoch);
    }
    if image.created.is_none() {
        image.created = image.history.iter().rev().find_map(|entry| entry.created.clone());
    }
    if let Some(epoch) = parts.epoch
        && image.created.as_deref().is_none_or(|time| history::is_later(time, epoch))
    {
        image.created = format_time(epoch, 0);
    }
    image.extra.remove(INHERITED_CACHE);
    if let Some((name, value)) = parts.inline_cache {
        image.extra.insert(name, value.into());
    }
    Ok(image.to_sorted_json())
}

/// What a result without a config becomes: an image in which programs are found.
fn plain(platform: Platform) -> ImageConfig {
    let mut image = ImageConfig::new(platform);
    image.config.env = vec![DEFAULT_PATH.to_owned()];
    image.config.working_dir = "/".to_owned();
    image
}

fn parse(bytes: &[u8], what: &str) -> Result<ImageConfig> {
    ImageConfig::parse(bytes).map_err(|error| ExportError::Result(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(given: Option<&str>, base: Option<&str>, epoch: Option<i64>) -> String {
        let parts = Parts {
            given: given.map(str::as_bytes),
            base: base.map(str::as_bytes),
            platform: Some(&Platform::parse("linux/arm64").unwrap()),
            diff_ids: vec![Digest::of("layer")],
            layers: vec![LayerFacts::new(1_700_000_000_500, "x")],
            epoch,
            inline_cache: None,
        };
        String::from_utf8(finish(parts).unwrap()).unwrap()
    }

    #[test]
    fn a_result_without_config_gets_one_for_its_platform() {
        let config = ImageConfig::parse(text(None, None, None).as_bytes()).unwrap();
        assert_eq!(config.platform.architecture, "arm64");
        assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20.5Z"));
        assert_eq!(config.history.len(), 1);
        assert_eq!(config.config.env, [DEFAULT_PATH]);
        assert_eq!(config.config.working_dir, "/");
    }

    #[test]
    fn unknown_fields_stay_and_layers_are_those_exported() {
        let given = r#"{"os":"linux","architecture":"amd64","moby.x":{"b":1},"rootfs":{"type":"layers","diff_ids":[
            "sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#;
        let text = text(Some(given), None, None);
        assert!(text.contains(r#""moby.x":{"#) && !text.contains("sha256:0000"), "{text}");
    }

    #[test]
    fn an_epoch_fixes_what_is_new() {
        let base = r#"{"os":"linux","architecture":"amd64","history":[
            {"created":"2023-01-01T00:00:00Z","created_by":"base","empty_layer":true}]}"#;
        let given = r#"{"os":"linux","architecture":"amd64","history":[
            {"created":"2023-01-01T00:00:00Z","created_by":"base","empty_layer":true},{"created_by":"RUN"}]}"#;
        let config = ImageConfig::parse(text(Some(given), Some(base), Some(5)).as_bytes()).unwrap();
        let times: Vec<_> = config.history.iter().map(|entry| entry.created.as_deref().unwrap()).collect();
        assert_eq!(times, ["2023-01-01T00:00:00Z", "1970-01-01T00:00:05Z"]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:05Z"));
    }
}
