//! The image config as it is finally written: the frontend's, with the layers that there really are.

use rbuild_digest::Digest;
use rbuild_oci::{History, ImageConfig, Platform, format_time};

use crate::{ExportError, Result};

/// What the config needs to know of a layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerFacts {
    pub(crate) diff_id: Digest,
    pub(crate) created_ms: i64,
    pub(crate) description: String,
}

fn time_of(millis: i64) -> Option<String> {
    let nanos = u32::try_from(millis.rem_euclid(1_000) * 1_000_000).ok()?;
    format_time(millis.div_euclid(1_000), nanos)
}

/// The config of an image of `layers`. Without a config from a frontend there is one with the platform alone.
pub(crate) fn finish(
    config: Option<&[u8]>,
    platform: Option<&Platform>,
    layers: &[LayerFacts],
    epoch: Option<i64>,
) -> Result<Vec<u8>> {
    let mut image = match config {
        Some(bytes) => ImageConfig::parse(bytes)
            .map_err(|error| ExportError::Result(format!("the frontend's image config: {error}")))?,
        None => ImageConfig::new(platform.cloned().unwrap_or_else(Platform::host)),
    };
    if image.platform.os.is_empty() || image.platform.architecture.is_empty() {
        image.platform = platform.cloned().unwrap_or_else(Platform::host);
    }
    image.rootfs.kind = "layers".into();
    image.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    let epoch_text = epoch.and_then(|seconds| format_time(seconds, 0));
    image.history = history(std::mem::take(&mut image.history), layers, epoch_text.as_deref());
    image.created = epoch_text.or_else(|| {
        let last = layers.last().and_then(|layer| time_of(layer.created_ms));
        image.history.iter().rev().find_map(|entry| entry.created.clone()).or(last).or(image.created.take())
    });
    Ok(image.to_sorted_json())
}

/// One entry that is not empty per layer: surplus layers get entries of their own, surplus entries are made
/// empty. Entries without a time get that of their layer, or of the one before.
fn history(mut entries: Vec<History>, layers: &[LayerFacts], epoch: Option<&str>) -> Vec<History> {
    let mut known = entries.iter().filter(|entry| !entry.empty_layer).count();
    for entry in entries.iter_mut().rev() {
        if known > layers.len() && !entry.empty_layer {
            entry.empty_layer = true;
            known -= 1;
        }
    }
    for layer in layers.iter().skip(known) {
        let created_by =
            if layer.description.is_empty() { "created by buildkit" } else { &layer.description };
        entries.push(History {
            created: time_of(layer.created_ms),
            created_by: created_by.to_owned(),
            comment: "buildkit.exporter.image.v0".into(),
            ..History::default()
        });
    }
    let mut next_layer = layers.iter();
    let mut last: Option<String> = None;
    for entry in &mut entries {
        let of_layer = if entry.empty_layer { None } else { next_layer.next() };
        if entry.created.is_none() {
            entry.created = of_layer.and_then(|layer| time_of(layer.created_ms)).or_else(|| last.clone());
        }
        if let (Some(epoch), Some(created)) = (epoch, &mut entry.created)
            && created.as_str() > epoch
        {
            *created = epoch.to_owned();
        }
        last = entry.created.clone().or(last);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8) -> LayerFacts {
        LayerFacts {
            diff_id: Digest::of([n]),
            created_ms: i64::from(n) * 1_000,
            description: format!("layer {n}"),
        }
    }

    fn entry(text: &str, empty_layer: bool) -> History {
        History { created_by: text.into(), empty_layer, ..History::default() }
    }

    #[test]
    fn history_and_layers_agree() {
        for (entries, layers) in [
            (vec![], 2),
            (vec![entry("a", false), entry("b", true)], 1),
            (vec![entry("a", false)], 3),
            (vec![entry("a", false), entry("b", false), entry("c", true)], 1),
        ] {
            let layers: Vec<_> = (1..=layers).map(layer).collect();
            let made = history(entries, &layers, None);
            assert_eq!(made.iter().filter(|entry| !entry.empty_layer).count(), layers.len(), "{made:?}");
            assert!(made.iter().all(|entry| entry.created.is_some()), "{made:?}");
        }
    }

    #[test]
    fn an_epoch_fixes_all_times() {
        let text = finish(None, None, &[layer(9)], Some(5)).unwrap();
        let config = ImageConfig::parse(&text).unwrap();
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:05Z"));
        assert_eq!(config.history[0].created.as_deref(), Some("1970-01-01T00:00:05Z"));
    }

    #[test]
    fn a_result_without_config_gets_one_for_its_platform() {
        let platform = Platform::parse("linux/arm64").unwrap();
        let config = ImageConfig::parse(&finish(None, Some(&platform), &[], None).unwrap()).unwrap();
        assert_eq!(config.platform.architecture, "arm64");
        assert!(config.rootfs.diff_ids.is_empty());
    }
}
