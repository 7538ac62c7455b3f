use std::collections::{BTreeMap, BTreeSet};

use rbuild_oci::{Descriptor, ImageRef, Index, Platform, PlatformMatcher, json, media};

use super::copy::{self, Blob};
use super::source::{self, Found, Source};
use super::{Content, Registries};
use crate::cli::CreateArgs;
use crate::errors::CommandError;
use crate::{run, ui};

/// What is pushed: a manifest or index, and the images that it needs with where they are.
#[derive(Debug)]
struct New {
    media_type: String,
    bytes: Vec<u8>,
    needs: Vec<Blob>,
}

/// Makes an image from others.
pub(super) async fn create(args: &CreateArgs) -> Result<(), CommandError> {
    let tags = args.tag.iter().map(|text| tag(text)).collect::<Result<Vec<_>, _>>()?;
    let annotations = Annotations::parse(&args.annotation)?;
    let platforms = args.platform.iter().map(|text| platform(text)).collect::<Result<Vec<_>, _>>()?;
    let mut sources = Vec::new();
    if args.append {
        let first = tags.first().ok_or_else(|| CommandError::usage("--append: to which --tag?"))?;
        sources.push(Source::Named(first.clone()));
    }
    for path in &args.file {
        sources.push(Source::read(path)?);
    }
    for text in &args.sources {
        sources.push(Source::parse(text)?);
    }
    if args.file.is_empty() && args.sources.is_empty() {
        return Err(CommandError::usage("no sources specified"));
    }
    if tags.is_empty() && !args.dry_run {
        return Err(CommandError::usage("can't push with no tags specified, please set --tag or --dry-run"));
    }
    let registries = Registries::open()?;
    let found = source::find(&registries, &sources, &tags).await?;
    let new = combine(&registries, &found, &annotations, &platforms, args.prefer_index).await?;
    if args.dry_run {
        ui::print_raw(&new.bytes);
        ui::print("");
        return Ok(());
    }
    let quiet = matches!(args.progress.as_str(), "quiet" | "none");
    for repository in tags.iter().map(ImageRef::name_only).collect::<BTreeSet<_>>() {
        let names: Vec<_> = tags.iter().filter(|tag| tag.name_only() == repository).collect();
        push(&registries, &new, &repository, &names, quiet).await?;
    }
    match &args.metadata_file {
        Some(path) => write_metadata(path, &new, &tags),
        None => Ok(()),
    }
}

fn tag(text: &str) -> Result<ImageRef, CommandError> {
    let name = source::name(text)?;
    match name.digest() {
        None => Ok(name.tag_or_latest()),
        Some(_) => {
            Err(CommandError::usage(format!("--tag {text}: a new image cannot have its digest chosen")))
        }
    }
}

fn platform(text: &str) -> Result<PlatformMatcher, CommandError> {
    let parsed = Platform::parse(text);
    let parsed = parsed.map_err(|error| CommandError::usage(format!("--platform {text}: {error}")))?;
    Ok(PlatformMatcher::strict(&parsed))
}

/// `--annotation`, by where it goes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Annotations {
    index: BTreeMap<String, String>,
    /// With the platform whose entry it is for, or for all.
    entries: Vec<(Option<Platform>, String, String)>,
}

impl Annotations {
    fn parse(texts: &[String]) -> Result<Self, CommandError> {
        let mut all = Self::default();
        for text in texts {
            let wrong = |reason: String| CommandError::usage(format!("--annotation {text}: {reason}"));
            let (left, value) = text.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE".into()))?;
            let (levels, key) = left.split_once(':').ok_or_else(|| {
                wrong("manifests are taken over as they are".into())
                    .hint("write index:KEY=VALUE or manifest-descriptor:KEY=VALUE")
            })?;
            if key.is_empty() {
                return Err(wrong("the key is empty".into()));
            }
            for level in levels.split(',') {
                let (level, platform) = match level.split_once('[') {
                    Some((level, rest)) => {
                        let name = rest.strip_suffix(']').ok_or_else(|| wrong("`[` is not closed".into()))?;
                        let platform = Platform::parse(name).map_err(|error| wrong(error.to_string()))?;
                        (level, Some(platform.normalize()))
                    }
                    None => (level, None),
                };
                match (level, platform) {
                    ("index", None) => drop(all.index.insert(key.to_owned(), value.to_owned())),
                    ("index", Some(_)) => return Err(wrong("an index has no platform".into())),
                    ("manifest-descriptor", platform) => {
                        all.entries.push((platform, key.to_owned(), value.to_owned()));
                    }
                    ("manifest" | "index-descriptor", _) => {
                        return Err(wrong(format!("\"{level}\" annotations are not supported here"))
                            .hint("levels are index and manifest-descriptor"));
                    }
                    _ => {
                        return Err(wrong(format!("unknown level `{level}`"))
                            .hint("levels are index and manifest-descriptor"));
                    }
                }
            }
        }
        Ok(all)
    }

    fn is_empty(&self) -> bool {
        self.index.is_empty() && self.entries.is_empty()
    }
}

/// The new image. A single source of which nothing is changed stays what it is, byte for byte.
async fn combine(
    registries: &Registries,
    found: &[Found],
    annotations: &Annotations,
    platforms: &[PlatformMatcher],
    prefer_index: bool,
) -> Result<New, CommandError> {
    let mut entries: Vec<(Descriptor, ImageRef)> = Vec::new();
    for source in found {
        let listed = match &source.image.content {
            Content::Index(index) => index.manifests.clone(),
            Content::Manifest(_) => vec![source.entry(registries).await?],
        };
        for entry in listed {
            if !entries.iter().any(|(known, _)| known.digest == entry.digest) {
                entries.push((entry, source.image.name.clone()));
            }
        }
    }
    let all = entries.len();
    retain(&mut entries, platforms);
    if entries.is_empty() {
        return Err(CommandError::new("none of the manifests match the provided platforms")
            .fault(rbuild_frontend::Fault::NoPlatform));
    }
    let needs = entries.iter().map(|(desc, name)| Blob { desc: desc.clone(), from: name.clone() }).collect();
    if let ([one], true) = (found, annotations.is_empty() && entries.len() == all)
        && one.annotations.is_empty()
        && (matches!(one.image.content, Content::Index(_)) || !prefer_index)
    {
        let media_type = one.image.desc.media_type.clone();
        // A manifest brings its config and layers by itself.
        return Ok(New { media_type, bytes: one.image.bytes.clone(), needs });
    }
    let of_one = match found {
        [Found { image, .. }] => match &image.content {
            Content::Index(index) => index.annotations.clone(),
            Content::Manifest(_) => BTreeMap::new(),
        },
        _ => BTreeMap::new(),
    };
    let media_type = index_type(found, &entries);
    let mut index = Index {
        schema_version: 2,
        media_type: media_type.to_owned(),
        artifact_type: None,
        manifests: entries.into_iter().map(|(desc, _)| desc).collect(),
        subject: None,
        annotations: if annotations.index.is_empty() { of_one } else { annotations.index.clone() },
    };
    annotate(&mut index, annotations)?;
    let bytes = json::to_vec_indent(&index).map_err(|error| CommandError::new(error.to_string()))?;
    Ok(New { media_type: media_type.to_owned(), bytes, needs })
}

/// Keeps the images for the platforms, and what is attested about them.
fn retain(entries: &mut Vec<(Descriptor, ImageRef)>, platforms: &[PlatformMatcher]) {
    if platforms.is_empty() {
        return;
    }
    let wanted = |desc: &Descriptor| {
        let platform = desc.platform.as_ref();
        platform.is_some_and(|platform| platforms.iter().any(|matcher| matcher.matches(platform)))
    };
    let kept: BTreeSet<String> =
        entries.iter().filter(|(desc, _)| wanted(desc)).map(|(desc, _)| desc.digest.to_string()).collect();
    entries.retain(|(desc, _)| {
        let about = desc.annotations.get(media::ANNOTATION_REFERENCE_DIGEST);
        kept.contains(&desc.digest.to_string()) || about.is_some_and(|digest| kept.contains(digest))
    });
}

/// Docker's own list where everything in it is docker's: the list of one source, or images of that type.
fn index_type(found: &[Found], entries: &[(Descriptor, ImageRef)]) -> &'static str {
    let is_docker = match found {
        [Found { image, .. }] if matches!(image.content, Content::Index(_)) => {
            image.desc.media_type == media::DOCKER_INDEX
        }
        _ => entries.iter().all(|(desc, _)| desc.media_type == media::DOCKER_MANIFEST),
    };
    if is_docker { media::DOCKER_INDEX } else { media::OCI_INDEX }
}

fn annotate(index: &mut Index, annotations: &Annotations) -> Result<(), CommandError> {
    // The type of docker's list has no annotations: dropping what was asked for helps nobody.
    if index.media_type == media::DOCKER_INDEX && !annotations.is_empty() {
        return Err(CommandError::new(
            "--annotation: the sources are Docker images, whose lists have no annotations",
        )
        .hint("build the sources with oci-mediatypes=true"));
    }
    for desc in &mut index.manifests {
        for (platform, key, value) in &annotations.entries {
            let own = desc.platform.as_ref().map(Platform::normalize);
            if platform.is_none() || *platform == own {
                desc.annotations.insert(key.clone(), value.clone());
            }
        }
    }
    Ok(())
}

/// Copies what the new image needs into a repository, then gives the image its tags there.
async fn push(
    registries: &Registries,
    new: &New,
    repository: &ImageRef,
    tags: &[&ImageRef],
    quiet: bool,
) -> Result<(), CommandError> {
    let say = |text: String| {
        if !quiet {
            ui::note(&text);
        }
    };
    for blob in &new.needs {
        if blob.from.name_only() != *repository {
            say(format!("copying {} from {} to {repository}", blob.desc.digest, blob.from));
        }
        copy::manifest(registries, blob, repository).await?;
    }
    for tag in tags {
        say(format!("pushing {} to {tag}", rbuild_digest::Digest::of(&new.bytes)));
        let to = registries.repository(repository)?;
        let name = rbuild_registry::Reference::Tag(tag.tag().unwrap_or("latest"));
        let pushed = to.push_manifest(&new.media_type, &new.bytes, name).await;
        pushed.map_err(|error| super::failed(&error))?;
    }
    Ok(())
}

fn write_metadata(path: &std::path::Path, new: &New, tags: &[ImageRef]) -> Result<(), CommandError> {
    let names: BTreeSet<String> = tags.iter().map(|tag| tag.name_only().to_string()).collect();
    let names: Vec<_> = names.into_iter().collect();
    let desc = Descriptor::of(new.media_type.clone(), &new.bytes);
    let value = serde_json::json!({"containerimage.descriptor": desc, "image.name": names.join(",")});
    run::write_file(path, format!("{value:#}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_say_where_they_go() {
        let parse = |text: &str| Annotations::parse(&[text.to_owned()]);
        let all = parse("index,manifest-descriptor[linux/arm64]:a.b=c=d").unwrap();
        assert_eq!(all.index, BTreeMap::from([("a.b".to_owned(), "c=d".to_owned())]));
        let arm = Platform::parse("linux/arm64").unwrap().normalize();
        assert_eq!(all.entries, [(Some(arm), "a.b".to_owned(), "c=d".to_owned())]);
        for bad in [
            "a",
            "a=b",
            "manifest:a=b",
            "index-descriptor:a=b",
            "index[linux/arm64]:a=b",
            "x:a=b",
            "index:=b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
