use std::path::Path;

use async_trait::async_trait;
use rbuild_oci::Platform;
use rbuild_oci::layer::{EntryKind, LayerEntry, LayerWriter};
use rbuild_session::filesync::{ExportRoot, ExtraFile};
use rbuild_snapshot::{Attributes, DiffOptions, Differ};
use rbuild_store::TreeGuard;

use crate::attest;
use crate::attrs::Attrs;
use crate::request::{ExportRef, ExportRequest, Exported, Exporter, Exporters};
use crate::stream;
use crate::{ExportError, Result};

/// The files of a result, written below a directory of the client's.
#[derive(Debug)]
pub(crate) struct LocalExporter {
    daemon: Exporters,
    options: FileOptions,
}

/// What both exporters of files can be told.
#[derive(Debug, Clone)]
struct FileOptions {
    /// Whether each platform gets a directory; not said: if the result names its platforms.
    split: Option<bool>,
    /// Wins over the build's.
    epoch: Option<i64>,
    /// Before the names of attestations' files.
    prefix: String,
}

impl FileOptions {
    fn take(attrs: &mut Attrs) -> Result<Self> {
        let prefix = attrs.take("attestation-prefix").unwrap_or_default();
        Ok(Self { split: attrs.flag("platform-split")?, epoch: attrs.epoch()?, prefix })
    }

    /// The directory of a platform: `linux_arm64`.
    fn directory_of(&self, part: &ExportRef) -> Option<String> {
        let id = match (&part.id, self.split) {
            (_, Some(false)) | (None, None) => return None,
            (Some(id), _) => id.clone(),
            (None, Some(true)) => part.platform.clone().unwrap_or_else(Platform::host).to_string(),
        };
        Some(id.replace('/', "_"))
    }
}

impl LocalExporter {
    pub(crate) fn new(daemon: Exporters, attrs: &mut Attrs) -> Result<Self> {
        // What the client does with files that are there already is the client's choice.
        attrs.take("mode");
        Ok(Self { options: FileOptions::take(attrs)?, daemon })
    }
}

async fn tree(part: &ExportRef) -> Result<Option<TreeGuard>> {
    match &part.reference {
        Some(reference) => Ok(Some(reference.tree().await?)),
        None => Ok(None),
    }
}

#[async_trait]
impl Exporter for LocalExporter {
    fn name(&self) -> String {
        "exporting to client directory".into()
    }

    async fn export(&self, request: &ExportRequest) -> Result<Exported> {
        let session = self.daemon.sessions.any(&request.sessions).await?;
        let mut trees = Vec::new();
        for part in &request.refs {
            if let Some(tree) = tree(part).await? {
                let extra = attest::files(&part.attestations, &self.options.prefix, Some(&tree)).await?;
                trees.push((self.options.directory_of(part), tree, extra));
            }
        }
        let status = request.reporter.status("copying files", "");
        let mut roots = Vec::new();
        for (directory, tree, extra) in &trees {
            let root = tree.root().try_clone();
            let root = root.map_err(|error| ExportError::io("opening the result")(error.into()))?;
            roots.push(ExportRoot { directory: directory.clone(), root, extra: extra.clone() });
        }
        let show = |bytes: u64| status.set(bytes, 0);
        let epoch = self.options.epoch.or(request.epoch);
        session.send_tree(request.index, Vec::new(), roots, epoch, &show).await?;
        status.done();
        Ok(Exported::default())
    }
}

/// The files of a result as one tar file.
#[derive(Debug)]
pub(crate) struct TarExporter {
    daemon: Exporters,
    options: FileOptions,
}

impl TarExporter {
    pub(crate) fn new(daemon: Exporters, attrs: &mut Attrs) -> Result<Self> {
        // As with upstream, `platform-split` has no say here: two platforms cannot share the names of one archive.
        let options = FileOptions { split: None, ..FileOptions::take(attrs)? };
        Ok(Self { daemon, options })
    }
}

#[async_trait]
impl Exporter for TarExporter {
    fn name(&self) -> String {
        "exporting to client tarball".into()
    }

    async fn export(&self, request: &ExportRequest) -> Result<Exported> {
        let session = self.daemon.sessions.any(&request.sessions).await?;
        let mut trees = Vec::new();
        for part in &request.refs {
            let tree = tree(part).await?;
            let extra = match &tree {
                Some(_) => attest::files(&part.attestations, &self.options.prefix, tree.as_ref()).await?,
                None => Vec::new(),
            };
            trees.push((self.options.directory_of(part), tree, extra));
        }
        trees.sort_by(|a, b| a.0.cmp(&b.0));
        let status = request.reporter.status("sending tarball", "");
        let epoch = self.options.epoch.or(request.epoch);
        let options = DiffOptions { source_date_epoch: epoch, attributes: Attributes::Users };
        stream::send_file(&session, request.index, Vec::new(), &status, move |out| {
            let mut tar = LayerWriter::new(out);
            for (directory, tree, extra) in &trees {
                if let Some(directory) = directory {
                    let top = LayerEntry::new(directory, EntryKind::Directory);
                    tar.start(&top).map_err(ExportError::io("sending"))?;
                }
                if let Some(tree) = tree {
                    let below = Path::new(directory.as_deref().unwrap_or_default());
                    let written = Differ::new(None, options.clone()).append_tree(tree.root(), below, tar);
                    tar = written.map_err(|error| ExportError::Content(error.to_string()))?.1;
                    for file in extra {
                        append_extra(&mut tar, below, file, epoch)?;
                    }
                }
            }
            tar.finish().map(drop).map_err(ExportError::io("sending"))
        })
        .await?;
        status.done();
        Ok(Exported::default())
    }
}

/// An attestation's file. It comes after the tree: of two entries of one name the later one is what unpacks.
fn append_extra<W: std::io::Write>(
    tar: &mut LayerWriter<W>,
    below: &Path,
    file: &ExtraFile,
    epoch: Option<i64>,
) -> Result<()> {
    let mut entry = LayerEntry::new(below.join(&file.name), EntryKind::File);
    entry.size = file.data.len() as u64;
    entry.mode = file.mode;
    entry.mtime_ns = epoch.map_or(file.mtime_ns, |seconds| seconds.saturating_mul(1_000_000_000));
    tar.append(&entry, &file.data[..]).map_err(ExportError::io("sending"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_get_directories_if_they_are_named_or_it_is_asked_for() {
        let part = |id: Option<&str>| ExportRef {
            id: id.map(str::to_owned),
            platform: Platform::parse("linux/arm/v7").ok(),
            reference: None,
            config: None,
            base: None,
            attestations: Vec::new(),
        };
        let dir =
            |split, id| FileOptions { split, epoch: None, prefix: String::new() }.directory_of(&part(id));
        assert_eq!(dir(None, Some("linux/arm64")).as_deref(), Some("linux_arm64"));
        assert_eq!(dir(Some(true), None).as_deref(), Some("linux_arm_v7"));
        assert_eq!(dir(None, None), None);
        assert_eq!(dir(Some(false), Some("linux/arm64")), None);
    }
}
