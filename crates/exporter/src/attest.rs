//! Statements about a result (provenance, lists of packages) as they leave: manifests beside images, files beside trees.
//!
//! Source: the in-toto statement v1; the layout in an index is upstream's, from its documents on attestation storage
//! and from images that it made.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use bytes::Bytes;
use rbuild_digest::{Digest, Hasher};
use rbuild_oci::{Descriptor, ImageRef, Manifest, Platform, json, media, purl};
use rbuild_session::filesync::ExtraFile;
use rbuild_store::{LayerBlob, Lease, Store, TreeGuard};
use rbuild_sys::{FileKind, Root};
use serde::Serialize;

use crate::assemble::{pretty, put};
use crate::{ExportError, Result};

/// Type of the statement around each predicate.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Artifact type of a manifest of attestations.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Annotation of its layers.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// What an attestation's file may be read by, beside a tree.
const FILE_MODE: u32 = 0o600;
/// Bytes hashed at a time.
const CHUNK: usize = 256 << 10;

/// A predicate about a result that is not yet exported.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// `https://slsa.dev/provenance/v1`
    pub predicate_type: String,
    /// What is said.
    pub predicate: Predicate,
    /// What it is about; empty: the result itself.
    pub subjects: Vec<About>,
    /// Its file's name beside a tree.
    pub file_name: String,
    /// Only for outputs that carry attestations within themselves: images.
    pub inline_only: bool,
}

/// A predicate's JSON.
#[derive(Debug, Clone)]
pub enum Predicate {
    /// As it is.
    Known(Bytes),
    /// It tells of the layers that are exported.
    OfLayers(Arc<dyn MakePredicate>),
}

/// Makes a predicate.
pub trait MakePredicate: Send + Sync + std::fmt::Debug {
    /// The JSON; `layers` are those of the image, `None` for outputs that have none.
    fn predicate(&self, layers: Option<&[LayerBlob]>) -> Result<Bytes>;
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The result itself, under the names that it has.
    Result,
    /// The result itself, under that name.
    ResultAs(String),
    /// Something else.
    Other(Subject),
}

impl About {
    /// `own`: what the result is.
    fn subjects(&self, own: &[Subject]) -> Vec<Subject> {
        match self {
            Self::Result => own.to_vec(),
            Self::ResultAs(name) => {
                own.iter().map(|own| Subject { name: name.clone(), digest: own.digest.clone() }).collect()
            }
            Self::Other(subject) => vec![subject.clone()],
        }
    }
}

/// Something that a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// A file, or an image as a package URL.
    pub name: String,
    /// Digests by algorithm.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    pub(crate) fn new(name: String, digest: &Digest) -> Self {
        Self { name, digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]) }
    }
}

/// The attestations of one platform's image, in the content store.
#[derive(Debug)]
pub(crate) struct AttestationImage {
    /// As it stands in the index.
    pub(crate) manifest: Descriptor,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What attestations of images are written as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttestationForm {
    /// As an OCI artifact with a subject; else in the shape of an image.
    pub(crate) artifact: bool,
    /// Whether those for images only are wanted.
    pub(crate) inline: bool,
}

impl AttestationForm {
    pub(crate) fn wants(self, attestation: &Attestation) -> bool {
        self.inline || !attestation.inline_only
    }
}

/// A statement's bytes.
pub(crate) fn statement(
    attestation: &Attestation,
    own: &[Subject],
    layers: Option<&[LayerBlob]>,
) -> Result<Vec<u8>> {
    let predicate = match &attestation.predicate {
        Predicate::Known(bytes) => bytes.clone(),
        Predicate::OfLayers(maker) => maker.predicate(layers)?,
    };
    let subjects: Vec<Subject> = match attestation.subjects.as_slice() {
        [] => own.to_vec(),
        about => about.iter().flat_map(|about| about.subjects(own)).collect(),
    };
    let internal = |error: std::fmt::Arguments<'_>| ExportError::Internal(error.to_string());
    let text = |value: &str| json::to_vec(value).map_err(|error| internal(format_args!("{error}")));
    // Put together by hand: the predicate goes in as it is.
    let mut out = br#"{"_type":"#.to_vec();
    out.extend(text(STATEMENT)?);
    out.extend(br#","predicateType":"#);
    out.extend(text(&attestation.predicate_type)?);
    out.extend(br#","subject":"#);
    out.extend(json::to_vec(&subjects).map_err(|error| internal(format_args!("{error}")))?);
    out.extend(br#","predicate":"#);
    out.extend(&predicate[..]);
    out.push(b'}');
    Ok(out)
}

/// The image as a subject, once for each of its names.
pub(crate) fn image_subjects(
    names: &[String],
    platform: &Platform,
    manifest: &Digest,
) -> Result<Vec<Subject>> {
    let subject = |name: &String| {
        let name = ImageRef::parse(name).map_err(|error| ExportError::Result(error.to_string()))?;
        Ok(Subject::new(purl("docker", &name.tag_or_latest(), Some(platform)), manifest))
    };
    names.iter().map(subject).collect()
}

/// Writes the manifest of attestations about `image` and what belongs to it.
pub(crate) async fn manifest(
    store: &Store,
    lease: &Lease,
    form: AttestationForm,
    image: &Descriptor,
    statements: Vec<(String, Vec<u8>)>,
) -> Result<AttestationImage> {
    let mut layers = Vec::with_capacity(statements.len());
    for (predicate_type, bytes) in statements {
        let layer = put(store, lease, media::IN_TOTO, bytes).await?;
        layers.push(layer.with_annotation(PREDICATE_TYPE, predicate_type));
    }
    let (config, artifact_type, subject) = match form.artifact {
        true => {
            let mut empty = put(store, lease, media::OCI_EMPTY, b"{}".to_vec()).await?;
            empty.data = Some("e30=".into());
            let about = Descriptor::new(&image.media_type, image.digest, image.size);
            (empty, Some(ARTIFACT.to_owned()), Some(Box::new(about)))
        }
        false => (put(store, lease, media::OCI_CONFIG, unknown_config(&layers)?).await?, None, None),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type,
        config: config.clone(),
        layers: layers.clone(),
        subject,
        annotations: BTreeMap::new(),
    };
    let mut manifest = put(store, lease, media::OCI_MANIFEST, pretty(&manifest)?).await?;
    manifest.annotations.extend([
        (media::ANNOTATION_REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
        (media::ANNOTATION_REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
    ]);
    manifest.platform =
        Some(Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() });
    Ok(AttestationImage { manifest, config, layers })
}

/// The config of attestations in the shape of an image: its layers are no archives, and its platform is none.
fn unknown_config(layers: &[Descriptor]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Config<'a> {
        architecture: &'a str,
        os: &'a str,
        config: BTreeMap<(), ()>,
        rootfs: RootFs<'a>,
    }
    #[derive(Serialize)]
    struct RootFs<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        diff_ids: Vec<Digest>,
    }
    let rootfs = RootFs { kind: "layers", diff_ids: layers.iter().map(|layer| layer.digest).collect() };
    let config = Config { architecture: "unknown", os: "unknown", config: BTreeMap::new(), rootfs };
    json::to_vec(&config).map_err(|error| ExportError::Internal(error.to_string()))
}

/// The files of attestations that lie beside the files of `tree`, which are their subjects. Reads all of them.
pub(crate) async fn files(
    attestations: &[Attestation],
    prefix: &str,
    tree: Option<&TreeGuard>,
) -> Result<Vec<ExtraFile>> {
    let wanted: Vec<_> = attestations.iter().filter(|attestation| !attestation.inline_only).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let own = match tree {
        None => Vec::new(),
        Some(tree) => {
            let root = tree.root().try_clone();
            let root = root.map_err(|error| ExportError::io("opening the result")(error.into()))?;
            let hashed = tokio::task::spawn_blocking(move || file_subjects(&root)).await;
            hashed.map_err(|error| ExportError::Internal(error.to_string()))??
        }
    };
    let mtime_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mtime_ns = mtime_ns.ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0);
    let mut files: Vec<ExtraFile> = Vec::with_capacity(wanted.len());
    for attestation in wanted {
        let name = format!("{prefix}{}", attestation.file_name);
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(ExportError::Result(format!("`{name}` cannot be the name of an attestation's file")));
        }
        if files.iter().any(|file| file.name == name) {
            return Err(ExportError::Result(format!("two attestations want the file name `{name}`")));
        }
        let data = json::indented(&statement(attestation, &own, None)?).into();
        files.push(ExtraFile { name, data, mode: FILE_MODE, mtime_ns });
    }
    Ok(files)
}

/// Every regular file with its digest, in the order of a walk. Blocking.
fn file_subjects(root: &Root) -> Result<Vec<Subject>> {
    let failed = |error: rbuild_sys::SysError| ExportError::io("hashing the result's files")(error.into());
    let mut subjects = Vec::new();
    let mut buffer = vec![0; CHUNK];
    let mut dirs = vec![(root.open_dir(".").map_err(failed)?, String::new(), None)];
    while let Some((dir, path, entries)) = dirs.last_mut() {
        let entries = match entries {
            Some(entries) => entries,
            None => entries.insert(sorted(dir).map_err(failed)?),
        };
        let Some((name, kind)) = entries.next() else {
            dirs.pop();
            continue;
        };
        let full = format!("{path}{}", name.to_string_lossy());
        match kind {
            FileKind::Dir => {
                let below = dir.open_dir_nofollow(&name).map_err(failed)?;
                dirs.push((below, format!("{full}/"), None));
            }
            FileKind::File => {
                let file = dir.open_file_nofollow(&name).map_err(failed)?;
                let digest = hash(file, &mut buffer).map_err(ExportError::io(format!("hashing {full}")))?;
                subjects.push(Subject::new(full, &digest));
            }
            _ => {}
        }
    }
    Ok(subjects)
}

type Names = std::vec::IntoIter<(OsString, FileKind)>;

fn sorted(dir: &Root) -> std::result::Result<Names, rbuild_sys::SysError> {
    let mut names: Vec<_> = dir.read_dir()?.into_iter().map(|entry| (entry.name, entry.kind)).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names.into_iter())
}

fn hash(mut file: impl std::io::Read, buffer: &mut [u8]) -> std::io::Result<Digest> {
    let mut hasher = Hasher::new();
    loop {
        match file.read(buffer)? {
            0 => return Ok(hasher.finish()),
            count => {
                hasher.update(&buffer[..count]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attestation(predicate: &'static str) -> Attestation {
        Attestation {
            predicate_type: "https://example.org/p".into(),
            predicate: Predicate::Known(predicate.into()),
            subjects: Vec::new(),
            file_name: "p.json".into(),
            inline_only: false,
        }
    }

    #[test]
    fn a_statement_has_the_predicate_as_it_is() {
        let own = [Subject::new("f".into(), &Digest::of(b"x"))];
        let text = String::from_utf8(statement(&attestation(r#"{"b":1,"a":"<"}"#), &own, None).unwrap());
        let text = text.unwrap();
        let expected = r#"{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.org/p","subject":[{"name":"f","digest":{"sha256":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}}],"predicate":{"b":1,"a":"<"}}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn statements_name_the_result_and_other_things() {
        let own = [Subject::new("f".into(), &Digest::of(b"x"))];
        let other = Subject { name: "o".into(), digest: BTreeMap::new() };
        let subjects = vec![About::Other(other), About::ResultAs("g".into()), About::Result];
        let said = Attestation { subjects, ..attestation("1") };
        let statement: serde_json::Value =
            serde_json::from_slice(&statement(&said, &own, None).unwrap()).unwrap();
        let subjects = statement["subject"].as_array().unwrap();
        let names: Vec<_> = subjects.iter().map(|subject| subject["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["o", "g", "f"]);
        assert_eq!(subjects[1]["digest"], subjects[2]["digest"]);
        assert_eq!(subjects[0]["digest"], serde_json::json!({}));
    }

    #[test]
    fn the_config_of_attestations_has_upstreams_bytes() {
        let digest =
            Digest::parse("sha256:7b2f6caba35dc6409bdcffe1b48c08b18d3f9dc808e5988f3870449c6927056a").unwrap();
        let config = unknown_config(&[Descriptor::new(media::IN_TOTO, digest, 928)]).unwrap();
        // Digest and size of the config that a peer made for the same layer.
        assert_eq!(config.len(), 167);
        assert!(Digest::of(&config).to_string().starts_with("sha256:29c71300b35fe6b4cdf7df111120efe3"));
    }

    #[test]
    fn subjects_of_a_tree_are_its_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("b/f"), "x").unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("l")).unwrap();
        let subjects = file_subjects(&Root::open(dir.path()).unwrap()).unwrap();
        let names: Vec<_> = subjects.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(names, ["a", "b/f"]);
        assert_eq!(subjects[1], Subject::new("b/f".into(), &Digest::of(b"x")));
    }
}
