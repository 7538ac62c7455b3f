use rbuild_oci::{Descriptor, ImageConfig, Platform};

use super::{Content, Image, Registries, attestations, failed, registries};
use crate::cli::InspectArgs;
use crate::errors::CommandError;
use crate::template::{Map, Shown, Template, TemplateError, Value};
use crate::ui;

/// Shows an image.
pub(super) async fn inspect(args: &InspectArgs) -> Result<(), CommandError> {
    let template = args.format.as_deref().map(Template::parse).transpose().map_err(|e| wrong(&e))?;
    let name = super::source::name(&args.name)?;
    let registries = Registries::open()?;
    let image = Image::fetch(&registries, &name).await?;
    if args.raw {
        ui::print_raw(&image.bytes);
        return Ok(());
    }
    let Some(template) = template else {
        ui::print_raw(ui::plain_lines(&table(&image)).as_bytes());
        return Ok(());
    };
    let text = template.run(&fields(&registries, &image, &template).await?).map_err(|e| wrong(&e))?;
    // No line end of ours: the template has those that it wants.
    ui::print_raw(ui::plain_lines(&text).as_bytes());
    Ok(())
}

fn wrong(error: &TemplateError) -> CommandError {
    CommandError::usage(error.to_string())
        .hint("fields are .Name, .Manifest, .Image, .Provenance and .SBOM; for instance '{{json .Manifest}}'")
}

/// What a template sees. Only what it may look at is fetched.
async fn fields(registries: &Registries, image: &Image, template: &Template) -> Result<Value, CommandError> {
    let mut root = Map::default();
    root.insert("name".to_owned(), Value::Text(image.name.to_string()));
    let manifest = manifest_fields(image).map_err(|error| unreadable(image, &error))?;
    let shown = Shown { text: table(image), value: Box::new(Value::Map(manifest)) };
    root.insert("manifest".to_owned(), Value::Shown(shown));
    if template.uses("image") {
        let value = image_fields(registries, image).await?;
        root.insert("image".to_owned(), value);
    }
    // As upstream: attestations are not part of the whole, and nothing is an empty object.
    for (field, kind) in [("Provenance", attestations::Kind::Provenance), ("SBOM", attestations::Kind::Sbom)]
    {
        if template.names(field) {
            root.insert(field.to_owned(), attestations::fetch(registries, image, kind).await?);
        }
    }
    Ok(Value::Map(root))
}

fn unreadable(image: &Image, error: &serde_json::Error) -> CommandError {
    registries::malformed(&image.name, &error.to_string())
}

fn map_of<T: serde::Serialize>(value: &T) -> serde_json::Result<Map> {
    serde_json::from_slice(&serde_json::to_vec(value)?)
}

/// An index with its own descriptor's fields among its own; of a manifest the descriptor alone.
fn manifest_fields(image: &Image) -> serde_json::Result<Map> {
    let desc = Descriptor::new(image.desc.media_type.clone(), image.desc.digest, image.bytes.len() as u64);
    let desc = map_of(&desc)?;
    let Content::Index(index) = &image.content else { return Ok(desc) };
    let mut index = map_of(index)?;
    let mut fields = Map::default();
    fields.extend(index.shift_remove_entry("schemaVersion"));
    fields.extend(desc);
    index.shift_remove("mediaType");
    fields.extend(index);
    Ok(fields)
}

/// The config of an image, or those of an index by platform. An index of one platform counts as an image.
async fn image_fields(registries: &Registries, image: &Image) -> Result<Value, CommandError> {
    let mut configs = Map::default();
    for (platform, part) in parts(registries, image).await? {
        let Content::Manifest(manifest) = &part.content else { continue };
        let repository = registries.repository(&part.name)?;
        let bytes = repository.config(manifest).await.map_err(|error| failed(&error))?;
        let config = ImageConfig::parse(&bytes)
            .map_err(|error| registries::malformed(&part.name, &error.to_string()))?;
        let fields = config_fields(&config).map_err(|error| unreadable(&part, &error))?;
        let name = platform.unwrap_or_else(|| config.platform.clone()).normalize().to_string();
        configs.insert(name, Value::Map(fields));
    }
    configs.sort_keys();
    Ok(single(configs))
}

/// One platform's value stands alone.
pub(super) fn single(mut by_platform: Map) -> Value {
    match by_platform.len() {
        1 => by_platform.pop().map_or(Value::Null, |(_, value)| value),
        _ => Value::Map(by_platform),
    }
}

/// In the order of Go's structure.
fn config_fields(config: &ImageConfig) -> serde_json::Result<Map> {
    let mut fields = map_of(config)?;
    let last: Vec<_> = ["config", "rootfs", "history"]
        .into_iter()
        .filter_map(|name| fields.shift_remove_entry(name))
        .collect();
    fields.extend(last);
    Ok(fields)
}

/// The images of an index with their platforms, attestations apart; of an image itself.
pub(super) async fn parts(
    registries: &Registries,
    image: &Image,
) -> Result<Vec<(Option<Platform>, Image)>, CommandError> {
    let index = match &image.content {
        Content::Index(index) => index,
        Content::Manifest(manifest) => {
            let content = Content::Manifest(manifest.clone());
            let (name, desc, bytes) = (image.name.clone(), image.desc.clone(), image.bytes.clone());
            return Ok(vec![(image.desc.platform.clone(), Image { name, desc, bytes, content })]);
        }
    };
    let mut parts = Vec::new();
    for desc in index.manifests.iter().filter(|desc| !desc.is_attestation()) {
        let name = image.name.with_digest(desc.digest);
        parts.push((desc.platform.clone(), Image::fetch_at(registries, name, desc.clone()).await?));
    }
    Ok(parts)
}

/// As buildx prints an image: columns as wide as the widest label of their block.
fn table(image: &Image) -> String {
    let mut text = block(
        "",
        &[
            ("Name:", image.name.to_string()),
            ("MediaType:", image.desc.media_type.clone()),
            ("Digest:", image.desc.digest.to_string()),
        ],
        "MediaType:".len(),
    );
    let Content::Index(index) = &image.content else { return text };
    text.push_str(&format!("{:11}\nManifests: \n", ""));
    let is_annotated = index.manifests.iter().any(|desc| !desc.annotations.is_empty());
    let width = if is_annotated { "Annotations:".len() } else { "MediaType:".len() };
    for (number, desc) in index.manifests.iter().enumerate() {
        if number > 0 {
            text.push_str(&format!("{:1$}\n", "", width + 3));
        }
        let mut lines = vec![
            ("Name:", image.name.with_digest(desc.digest).to_string()),
            ("MediaType:", desc.media_type.clone()),
        ];
        lines.extend(desc.platform.as_ref().map(|platform| ("Platform:", platform.to_string())));
        if !desc.annotations.is_empty() {
            lines.push(("Annotations:", String::new()));
        }
        text.push_str(&block("  ", &lines, width));
        let longest = desc.annotations.keys().map(|key| key.chars().count()).max().unwrap_or(0);
        for (key, value) in &desc.annotations {
            text.push_str(&format!("    {:<1$}{value}\n", format!("{key}:"), longest + 2));
        }
    }
    text
}

fn block(indent: &str, lines: &[(&str, String)], width: usize) -> String {
    lines.iter().map(|(label, value)| format!("{indent}{label:<width$} {value}\n")).collect()
}
