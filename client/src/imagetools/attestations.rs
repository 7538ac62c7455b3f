use rbuild_oci::{Manifest, media};
use serde::Deserialize;

use super::{Content, Image, Registries, failed, inspect, registries};
use crate::errors::CommandError;
use crate::template::{Map, Value};

/// A package list of a large image has tens of megabytes; beyond this something is wrong.
const MAX_STATEMENT: u64 = 128 << 20;
/// What an attestation's layer is about. Source: the in-toto attestation format, as images carry it.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const SPDX: &str = "https://spdx.dev/Document";
const SLSA: &str = "https://slsa.dev/provenance/";

/// What is stated about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Provenance,
    Sbom,
}

impl Kind {
    fn is_of(self, predicate_type: &str) -> bool {
        match self {
            Self::Provenance => predicate_type.starts_with(SLSA),
            Self::Sbom => predicate_type == SPDX,
        }
    }
}

/// An in-toto statement, as far as we need it.
#[derive(Debug, Deserialize)]
struct Statement {
    predicate: Value,
}

/// The statements of one kind about each image of an index; an empty object without any.
pub(super) async fn fetch(registries: &Registries, image: &Image, kind: Kind) -> Result<Value, CommandError> {
    let Content::Index(index) = &image.content else { return Ok(Value::Map(Map::default())) };
    let mut found = Map::default();
    for desc in index.manifests.iter().filter(|desc| !desc.is_attestation()) {
        let Some(platform) = &desc.platform else { continue };
        let about = desc.digest.to_string();
        let is_about = |annotations: &std::collections::BTreeMap<String, String>| {
            annotations.get(media::ANNOTATION_REFERENCE_DIGEST).is_some_and(|digest| *digest == about)
        };
        let mut predicates = Vec::new();
        for entry in index.manifests.iter().filter(|e| e.is_attestation() && is_about(&e.annotations)) {
            let name = image.name.with_digest(entry.digest);
            let attestation = Image::fetch_at(registries, name, entry.clone()).await?;
            if let Content::Manifest(manifest) = &attestation.content {
                predicates.extend(statements(registries, &attestation, manifest, kind).await?);
            }
        }
        if let Some(value) = shape(kind, predicates) {
            found.insert(platform.normalize().to_string(), value);
        }
    }
    Ok(inspect::single(found))
}

async fn statements(
    registries: &Registries,
    image: &Image,
    manifest: &Manifest,
    kind: Kind,
) -> Result<Vec<Value>, CommandError> {
    let repository = registries.repository(&image.name)?;
    let is_wanted = |kind: Kind, annotations: &std::collections::BTreeMap<String, String>| {
        annotations.get(PREDICATE_TYPE).is_some_and(|text| kind.is_of(text))
    };
    let mut predicates = Vec::new();
    for layer in manifest.layers.iter().filter(|layer| is_wanted(kind, &layer.annotations)) {
        let bytes = repository.small_blob(layer, MAX_STATEMENT).await.map_err(|error| failed(&error))?;
        let statement: Statement = serde_json::from_slice(&bytes)
            .map_err(|error| registries::malformed(&image.name, &error.to_string()))?;
        predicates.push(statement.predicate);
    }
    Ok(predicates)
}

/// The names under which templates find them.
fn shape(kind: Kind, predicates: Vec<Value>) -> Option<Value> {
    let mut predicates = predicates.into_iter();
    let first = predicates.next()?;
    let mut fields = Map::default();
    match kind {
        Kind::Provenance => fields.insert("SLSA".to_owned(), first),
        Kind::Sbom => {
            let others: Vec<_> = predicates.collect();
            if !others.is_empty() {
                fields.insert("AdditionalSPDXs".to_owned(), Value::List(others));
            }
            fields.insert("SPDX".to_owned(), first)
        }
    };
    Some(Value::Map(fields))
}
