//! What a frontend returned, checked and computed: the parts that exporters get.

use std::collections::BTreeSet;

use rbuild_exporter::ExportRef;
use rbuild_frontend::{BuildError, FrontendResult, ResultRefs, SharedRef};
use rbuild_oci::{ImageConfig, Platform};
use rbuild_progress::Warning;
use serde::Deserialize;

use crate::bridge::BuildContext;
use crate::request::What;
use crate::statements::Reader;

/// `refs.platforms`, as frontends write it.
#[derive(Debug, Deserialize)]
struct Platforms {
    #[serde(rename = "Platforms")]
    platforms: Vec<NamedPlatform>,
}

#[derive(Debug, Deserialize)]
struct NamedPlatform {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// The computed parts of a result, with their configs.
///
/// Errors: parts and platforms that do not go together; a part that cannot be computed.
pub(crate) async fn results(
    context: &BuildContext,
    result: &FrontendResult,
) -> Result<Vec<ExportRef>, BuildError> {
    let config_of = |key: &str, id: Option<&str>| {
        let own = id.and_then(|id| result.metadata.get(&format!("{key}/{id}")));
        own.or_else(|| result.metadata.get(key)).cloned()
    };
    let platforms = platforms(result)?;
    let mut parts: Vec<(Option<String>, Option<SharedRef>)> = match &result.refs {
        ResultRefs::Single(reference) => vec![(None, reference.clone())],
        ResultRefs::Named(refs) => refs.iter().map(|(id, r)| (Some(id.clone()), r.clone())).collect(),
    };
    // In the order in which the frontend lists its platforms, which is the order in the index.
    let position = |id: &Option<String>| platforms.iter().position(|named| Some(&named.id) == id.as_ref());
    parts.sort_by_key(|(id, _)| position(id));
    let solve = parts.into_iter().map(|(id, reference)| {
        let config = config_of("containerimage.config", id.as_deref());
        let base = config_of("containerimage.base.config", id.as_deref());
        let named = platforms.iter().find(|named| id.as_ref().is_none_or(|id| *id == named.id));
        let platform = named.map(|named| named.platform.clone()).or_else(|| platform_of(config.as_deref()));
        async move {
            let reference = match reference {
                // Solved in this job before or not: the job remembers.
                Some(reference) => context.solve_definition(&reference.definition()).await?,
                None => None,
            };
            let attestations = Vec::new();
            Ok::<_, BuildError>(ExportRef { id, platform, reference, config, base, attestations })
        }
    });
    let mut parts = futures::future::try_join_all(solve).await?;
    attest(context, result, &platforms, &mut parts).await?;
    Ok(parts)
}

/// Reads what the frontend says of the parts.
async fn attest(
    context: &BuildContext,
    result: &FrontendResult,
    platforms: &[NamedPlatform],
    parts: &mut [ExportRef],
) -> Result<(), BuildError> {
    let mut reader = Reader::default();
    let mut left: BTreeSet<&String> = result.attestations.keys().collect();
    for part in parts {
        let name = part.id.clone().or_else(|| platforms.first().map(|named| named.id.clone()));
        let name = name.or_else(|| part.platform.as_ref().map(ToString::to_string));
        let name = name.unwrap_or_else(|| Platform::host().to_string());
        if let Some(said) = result.attestations.get(&name) {
            part.attestations = reader.read(said).await?;
        }
        left.remove(&name);
    }
    for name in left {
        let short = format!("Attestations for {name:?}, which is no part of the result, are left out");
        context.step("verifying attestations").warn(warning(short));
    }
    Ok(())
}

fn warning(short: String) -> Warning {
    Warning { level: 1, short, detail: Vec::new(), url: String::new(), info: None, ranges: Vec::new() }
}

fn platform_of(config: Option<&[u8]>) -> Option<Platform> {
    let platform = ImageConfig::parse(config?).ok()?.platform;
    (!platform.os.is_empty()).then_some(platform)
}

/// The platforms of a result. Several parts say each which one they are for, in upstream's words where they do not.
fn platforms(result: &FrontendResult) -> Result<Vec<NamedPlatform>, BuildError> {
    let Some(text) = result.metadata.get("refs.platforms") else {
        return match &result.refs {
            ResultRefs::Named(refs) if refs.len() > 1 => {
                Err(BuildError::invalid("build result contains multiple refs without platforms mapping"))
            }
            _ => Ok(Vec::new()),
        };
    };
    let parsed: Result<Platforms, _> = serde_json::from_slice(text);
    let parsed =
        parsed.map_err(|error| BuildError::invalid(format!("the frontend's `refs.platforms`: {error}")))?;
    if let ResultRefs::Named(refs) = &result.refs
        && let Some(missing) = parsed.platforms.iter().find(|named| !refs.contains_key(&named.id))
    {
        return Err(BuildError::invalid(format!("failed to find ref for ID {}", missing.id)));
    }
    Ok(parsed.platforms)
}

/// The platforms that a build was asked for.
#[derive(Debug)]
pub(crate) struct Requested(Vec<Platform>);

impl Requested {
    /// Those of the option `platform`, else the daemon's own.
    pub(crate) fn of(what: &What) -> Self {
        let option = match what {
            What::Definition(_) => None,
            What::Frontend { options, .. } | What::Client { options, .. } => options.get("platform"),
        };
        let parsed = option.into_iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty());
        let mut platforms: Vec<_> = parsed.filter_map(|text| Platform::parse(text.trim()).ok()).collect();
        if platforms.is_empty() {
            platforms.push(Platform::host());
        }
        Self(platforms)
    }

    /// Warns where the result is for other platforms: its users would find out when it does not start.
    pub(crate) fn compare(&self, context: &BuildContext, parts: &[ExportRef]) {
        let made: Vec<Platform> = parts.iter().filter_map(|part| part.platform.clone()).collect();
        if let Some(short) = self.difference(&made) {
            context.step("verifying platforms").warn(warning(short));
        }
    }

    fn difference(&self, made: &[Platform]) -> Option<String> {
        let names = |platforms: &[Platform]| -> BTreeSet<String> {
            platforms.iter().map(|platform| platform.normalize().to_string()).collect()
        };
        let (asked, made) = (names(&self.0), names(made));
        if made.is_empty() || asked == made {
            return None;
        }
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(",");
        Some(match (asked.len(), made.len()) {
            (1, 1) => format!(
                "Requested platform {:?} does not match result platform {:?}",
                list(&asked),
                list(&made)
            ),
            _ => {
                format!("Requested platforms {} do not match result platforms {}", list(&asked), list(&made))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn requested(text: &str) -> Requested {
        let options = BTreeMap::from([("platform".to_owned(), text.to_owned())]);
        Requested::of(&What::Frontend { name: "dockerfile.v0".into(), options, inputs: BTreeMap::new() })
    }

    fn made(names: &[&str]) -> Vec<Platform> {
        names.iter().map(|name| Platform::parse(name).unwrap()).collect()
    }

    #[test]
    fn what_was_asked_for_is_no_warning_in_any_spelling_or_order() {
        assert_eq!(
            requested("linux/arm64,linux/amd64").difference(&made(&["linux/amd64", "linux/arm64"])),
            None
        );
        assert_eq!(requested("linux/aarch64").difference(&made(&["linux/arm64/v8"])), None);
        assert_eq!(requested("linux/s390x").difference(&[]), None);
    }

    #[test]
    fn other_platforms_are_named() {
        assert_eq!(
            requested("linux/amd64").difference(&made(&["linux/amd64/v3"])).unwrap(),
            r#"Requested platform "linux/amd64" does not match result platform "linux/amd64/v3""#
        );
        assert_eq!(
            requested("linux/amd64").difference(&made(&["linux/arm64", "linux/amd64"])).unwrap(),
            "Requested platforms linux/amd64 do not match result platforms linux/amd64,linux/arm64"
        );
    }

    #[test]
    fn several_parts_say_what_they_are_for() {
        let named = |ids: &[&str]| ResultRefs::Named(ids.iter().map(|id| ((*id).to_owned(), None)).collect());
        let result = |refs, platforms: Option<&str>| {
            let metadata = platforms.map(|text| ("refs.platforms".to_owned(), text.as_bytes().to_vec()));
            FrontendResult { refs, metadata: metadata.into_iter().collect(), ..FrontendResult::single(None) }
        };
        assert!(platforms(&result(named(&["a"]), None)).is_ok());
        let error = platforms(&result(named(&["a", "b"]), None)).unwrap_err().to_string();
        assert!(error.contains("without platforms mapping"), "{error}");
        let text = r#"{"Platforms":[{"ID":"c","Platform":{"os":"linux","architecture":"amd64"}}]}"#;
        let error = platforms(&result(named(&["a"]), Some(text))).unwrap_err().to_string();
        assert!(error.contains("failed to find ref for ID c"), "{error}");
    }
}
