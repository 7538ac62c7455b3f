use std::collections::{BTreeMap, BTreeSet};

use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, ImageRef, Platform};
use serde::Deserialize;

use super::{Image, Registries, failed};
use crate::errors::{CommandError, os_text};

/// What a new image is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// By name.
    Named(ImageRef),
    /// By digest, in a repository that other arguments name; a descriptor adds its own.
    Digest { digest: Digest, platform: Option<Platform>, annotations: BTreeMap<String, String> },
}

/// A descriptor as users write it: only the digest is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: Option<u32>,
    digest: Option<Digest>,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// A name as users write it.
pub(super) fn name(text: &str) -> Result<ImageRef, CommandError> {
    ImageRef::parse(text).map_err(|error| CommandError::usage(error.to_string()))
}

impl Source {
    /// Reads the file of a `--file`. Blocking, but for a small file only.
    pub(super) fn read(path: &std::path::Path) -> Result<Self, CommandError> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| CommandError::usage(format!("--file {shown}: {}", os_text(&error))))?;
        Self::parse(&text).map_err(|error| error.context(format!("--file {shown}")))
    }

    /// Reads a name, a digest or a descriptor.
    pub(super) fn parse(text: &str) -> Result<Self, CommandError> {
        let text = text.trim();
        let wrong = |reason: String| {
            CommandError::usage(format!(
                "failed to parse source `{}`: {reason}",
                text.chars().take(200).collect::<String>()
            ))
            .hint("sources are names, digests and descriptors (JSON with mediaType, digest and size)")
        };
        if let Ok(digest) = Digest::parse(text) {
            return Ok(Self::Digest { digest, platform: None, annotations: BTreeMap::new() });
        }
        if !text.starts_with('{') {
            return ImageRef::parse(text).map(Self::Named).map_err(|error| wrong(error.to_string()));
        }
        let written: Written = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if written.schema_version.is_some() {
            return Err(wrong("it is a manifest or index, not a descriptor of one".to_owned()));
        }
        let digest = written.digest.ok_or_else(|| wrong("it has no digest".to_owned()))?;
        Ok(Self::Digest { digest, platform: written.platform, annotations: written.annotations })
    }
}

/// The one repository that digests can be meant in: that of the tags, or of the sources with names.
pub(super) fn repository(tags: &[ImageRef], sources: &[Source]) -> Result<ImageRef, CommandError> {
    let named = sources.iter().filter_map(|source| match source {
        Source::Named(name) => Some(name.name_only()),
        Source::Digest { .. } => None,
    });
    let of_tags: BTreeSet<ImageRef> = tags.iter().map(ImageRef::name_only).collect();
    let mut all = if of_tags.is_empty() { named.collect() } else { of_tags };
    match (all.pop_first(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(CommandError::usage("in which repository is the digest? there is no name at all")
            .hint("add a --tag or a source with a name")),
        (Some(_), false) => Err(CommandError::usage("in which repository is the digest? there are several")
            .hint("write the digest as NAME@sha256:…")),
    }
}

/// A source as it is in its registry.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) image: Image,
    /// What its descriptor said about it.
    pub(super) platform: Option<Platform>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// Looks all sources up, in their order.
pub(super) async fn find(
    registries: &Registries,
    sources: &[Source],
    tags: &[ImageRef],
) -> Result<Vec<Found>, CommandError> {
    let mut found = Vec::new();
    for source in sources {
        found.push(match source {
            Source::Named(name) => {
                let image = Image::fetch(registries, name).await?;
                Found { image, platform: None, annotations: BTreeMap::new() }
            }
            Source::Digest { digest, platform, annotations } => {
                let name = repository(tags, sources)?.with_digest(*digest);
                let image = Image::fetch(registries, &name).await?;
                Found { image, platform: platform.clone(), annotations: annotations.clone() }
            }
        });
    }
    Ok(found)
}

impl Found {
    /// The entry that an index has for an image.
    pub(super) async fn entry(&self, registries: &Registries) -> Result<Descriptor, CommandError> {
        let Image { name, desc, bytes, content } = &self.image;
        let mut entry = Descriptor::new(desc.media_type.clone(), desc.digest, bytes.len() as u64);
        entry.annotations.clone_from(&self.annotations);
        entry.platform.clone_from(&self.platform);
        if let (None, super::Content::Manifest(manifest)) = (&entry.platform, content) {
            let config =
                registries.repository(name)?.config(manifest).await.map_err(|error| failed(&error))?;
            // An artifact that is no image runs nowhere in particular.
            entry.platform = rbuild_oci::ImageConfig::parse(&config)
                .ok()
                .map(|config| config.platform)
                .filter(|platform| !platform.architecture.is_empty());
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn sources_are_names_digests_and_descriptors() {
        let digest = Digest::parse(DIGEST).unwrap();
        assert_eq!(Source::parse("a:1\n").unwrap(), Source::Named(ImageRef::parse("a:1").unwrap()));
        let plain = Source::Digest { digest, platform: None, annotations: BTreeMap::new() };
        assert_eq!(Source::parse(DIGEST).unwrap(), plain);
        let text = format!(
            r#"{{"digest":"{DIGEST}","platform":{{"os":"linux","architecture":"arm"}},"annotations":{{"a":"b"}}}}"#
        );
        let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let full = Source::Digest { digest, platform: Some(Platform::new("linux", "arm")), annotations };
        assert_eq!(Source::parse(&text).unwrap(), full);
        for bad in ["", "A!", "{", "{}", r#"{"schemaVersion":2,"manifests":[]}"#, r#"{"digest":"md5:1"}"#] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_looked_for_in_the_only_repository_that_is_named() {
        let name = |text: &str| ImageRef::parse(text).unwrap();
        let digest = Source::parse(DIGEST).unwrap();
        let named = Source::Named(name("r.io/c:2"));
        let both = [named.clone(), digest.clone()];
        assert_eq!(repository(&[name("r.io/a:1"), name("r.io/a:2")], &both).unwrap(), name("r.io/a"));
        assert_eq!(repository(&[], &both).unwrap(), name("r.io/c"));
        assert!(repository(&[], std::slice::from_ref(&digest)).is_err());
        assert!(repository(&[name("r.io/a:1"), name("r.io/b:1")], &[digest]).is_err());
    }
}
