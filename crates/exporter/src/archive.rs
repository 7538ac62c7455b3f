use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};

use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_oci::layer::{EntryKind, LayerEntry, LayerWriter};
use rbuild_oci::{Descriptor, ImageRef, Index, Provider as _, format_time, json, media};
use rbuild_session::{BlobTarget, Session, names};
use rbuild_store::Store;
use serde::Serialize;

use crate::assemble::{Assembled, assemble};
use crate::attrs::{Attrs, ImageOptions};
use crate::request::{ExportRequest, Exported, Exporter, Exporters};
use crate::stream::{self, ChunkWriter};
use crate::{ExportError, Result};

/// Which archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArchiveKind {
    /// An OCI layout.
    Oci,
    /// An OCI layout with `manifest.json`, as `docker load` reads it.
    Docker,
}

/// An image as one tar file, sent to the client.
#[derive(Debug)]
pub(crate) struct ArchiveExporter {
    daemon: Exporters,
    kind: ArchiveKind,
    /// One file; else a directory in OCI layout, whose `index.json` the client writes.
    tar: bool,
    options: ImageOptions,
}

impl ArchiveExporter {
    pub(crate) fn new(daemon: Exporters, kind: ArchiveKind, attrs: &mut Attrs) -> Result<Self> {
        let options = ImageOptions::take(attrs, false)?;
        let tar = attrs.flag("tar")?.unwrap_or(true);
        for name in &options.names {
            ImageRef::parse(name).map_err(|error| attrs.bad("name", name, &error.to_string()))?;
        }
        Ok(Self { daemon, kind, tar, options })
    }
}

#[async_trait]
impl Exporter for ArchiveExporter {
    fn name(&self) -> String {
        match self.kind {
            ArchiveKind::Oci => "exporting to oci image format".into(),
            ArchiveKind::Docker => "exporting to docker image format".into(),
        }
    }

    async fn export(&self, request: &ExportRequest) -> Result<Exported> {
        if self.kind == ArchiveKind::Docker && request.is_multi_platform() {
            return Err(ExportError::Result(
                "docker exporter does not currently support exporting manifest lists".into(),
            ));
        }
        let mut image = assemble(&self.daemon.store, &self.options, request).await?;
        let session = self.daemon.sessions.any(&request.sessions).await?;
        for part in &image.images {
            for layer in &part.layers {
                if let Some(reference) = &part.reference {
                    reference.fetch_blob(layer, None).await?;
                }
            }
        }
        let created = match self.options.epoch.or(request.epoch) {
            Some(seconds) => format_time(seconds, 0),
            None => now(),
        };
        let created = created.map(|time| ("org.opencontainers.image.created".to_owned(), time));
        image.target.annotations.extend(created);
        let names = self.names()?;
        let mut response = image.response();
        if !names.is_empty() {
            let text: Vec<_> = names.iter().map(ToString::to_string).collect();
            response.insert("image.name".into(), text.join(","));
        }
        if !self.tar {
            self.send_blobs(&session, &image).await?;
            return Ok(Exported { response });
        }
        let metadata = response.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let status = request.reporter.status("sending tarball", "");
        let archive = Archive::new(self.kind, &names, &image)?;
        let store = self.daemon.store.clone();
        stream::send_file(&session, request.index, metadata, &status, move |out| archive.write(&store, out))
            .await?;
        status.done();
        drop(image);
        Ok(Exported { response })
    }
}

impl ArchiveExporter {
    /// Writes everything into the client's directory, what is referred to before what refers to it.
    async fn send_blobs(&self, session: &Session, image: &Assembled) -> Result<()> {
        let mut sent = BTreeSet::new();
        for blob in image.blobs() {
            if sent.insert(blob.digest) {
                let digest = blob.digest.to_string();
                let data = self.daemon.store.content().open(&blob, 0).await;
                let data = data.map_err(ExportError::io(format!("blob {digest}")))?;
                let target = BlobTarget { store: names::EXPORT_STORE, digest: &digest, size: blob.size };
                session.put_blob(target, data).await?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<ImageRef>> {
        let parse = |name: &String| {
            let parsed = ImageRef::parse(name).map(|name| name.tag_or_latest());
            parsed.map_err(|error| ExportError::Result(error.to_string()))
        };
        self.options.names.iter().map(parse).collect()
    }
}

/// What goes into the archive: files by path in byte order, so that the bytes depend on the image alone.
#[derive(Debug)]
struct Archive {
    files: BTreeMap<String, Vec<u8>>,
    blobs: BTreeSet<Digest>,
}

impl Archive {
    fn new(kind: ArchiveKind, names: &[ImageRef], image: &Assembled) -> Result<Self> {
        let mut files = BTreeMap::from([
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index(names, image)?),
        ]);
        if kind == ArchiveKind::Docker {
            files.insert("manifest.json".into(), docker_manifest(names, image)?);
        }
        let blobs = image.blobs().iter().map(|blob| blob.digest).collect();
        Ok(Self { files, blobs })
    }

    fn write(self, store: &Store, out: &mut ChunkWriter) -> Result<()> {
        let mut tar = LayerWriter::new(out);
        for dir in ["blobs", "blobs/sha256"] {
            tar.start(&LayerEntry::new(dir, EntryKind::Directory)).map_err(broken)?;
        }
        for digest in &self.blobs {
            let content = |error: rbuild_store::StoreError| ExportError::from(error);
            let file = store.content().open_blob(digest).map_err(|error| content(error.into()))?;
            let size = file.metadata().map_err(ExportError::io(format!("blob {digest}")))?.len();
            let path = format!("blobs/sha256/{}", digest.hex());
            tar.append(&file_entry(&path, size), io::BufReader::with_capacity(256 << 10, file))
                .map_err(ExportError::io(format!("sending blob {digest}")))?;
        }
        for (path, bytes) in &self.files {
            let mut entry = file_entry(path, bytes.len() as u64);
            if path.ends_with(".json") {
                entry.mode = 0o644;
            }
            tar.start(&entry).map_err(broken)?;
            tar.write_all(bytes).map_err(broken)?;
        }
        tar.finish().map_err(broken)?;
        Ok(())
    }
}

fn broken(source: io::Error) -> ExportError {
    ExportError::io("sending the archive")(source)
}

fn file_entry(path: &str, size: u64) -> LayerEntry {
    let mut entry = LayerEntry::new(path, EntryKind::File);
    entry.size = size;
    entry.mode = 0o444;
    entry
}

/// `index.json`: the image once per name. Source: OCI image-spec, "image-layout"; the name annotations are
/// containerd's.
fn index(names: &[ImageRef], image: &Assembled) -> Result<Vec<u8>> {
    let entry = |name: Option<&ImageRef>| -> Descriptor {
        let mut target = image.target.clone();
        if let Some(name) = name {
            target.annotations.insert("io.containerd.image.name".into(), name.to_string());
            if let Some(tag) = name.tag() {
                target.annotations.insert(media::ANNOTATION_REF_NAME.into(), tag.to_owned());
            }
        }
        target
    };
    let manifests: Vec<Descriptor> = match names.is_empty() {
        true => vec![entry(None)],
        false => names.iter().map(|name| entry(Some(name))).collect(),
    };
    to_json(&Index {
        schema_version: 2,
        media_type: media::OCI_INDEX.into(),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: BTreeMap::new(),
    })
}

fn now() -> Option<String> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    format_time(i64::try_from(since.as_secs()).ok()?, 0)
}

/// `manifest.json` of `docker save`.
fn docker_manifest(names: &[ImageRef], image: &Assembled) -> Result<Vec<u8>> {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let part = image.images.first().ok_or_else(|| ExportError::Result("the result is empty".into()))?;
    let layers: Vec<String> = part.layers.iter().map(|layer| path(&layer.desc.digest)).collect();
    let tags: Vec<String> = names.iter().map(ImageRef::familiar).collect();
    let tags = (!tags.is_empty()).then_some(tags);
    to_json(&[DockerImage { config: path(&part.config.digest), repo_tags: tags, layers }])
}

/// An entry of `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn to_json(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>> {
    json::to_vec(value).map_err(|error| ExportError::Internal(error.to_string()))
}
