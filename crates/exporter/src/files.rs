use async_trait::async_trait;
use rbuild_session::filesync::ExportRoot;
use rbuild_snapshot::{DiffOptions, Differ};
use rbuild_store::TreeGuard;

use crate::attrs::Attrs;
use crate::request::{ExportRef, ExportRequest, Exported, Exporter, Exporters};
use crate::stream;
use crate::{ExportError, Result};

/// The files of a result, written below a directory of the client's.
#[derive(Debug)]
pub(crate) struct LocalExporter {
    daemon: Exporters,
    platform_split: bool,
}

impl LocalExporter {
    pub(crate) fn new(daemon: Exporters, attrs: &mut Attrs) -> Result<Self> {
        attrs.refuse("attestation-prefix")?;
        // What the client does with files that are there already is the client's choice.
        attrs.take("mode");
        Ok(Self { daemon, platform_split: attrs.flag("platform-split")?.unwrap_or(true) })
    }
}

/// The directory of a platform in a result for several: `linux_arm64`.
fn directory_of(part: &ExportRef, split: bool) -> Option<String> {
    part.id.as_ref().filter(|_| split).map(|id| id.replace('/', "_"))
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
                trees.push((directory_of(part, self.platform_split), tree));
            }
        }
        let status = request.reporter.status("copying files", "");
        let mut roots = Vec::new();
        for (directory, tree) in &trees {
            let root = tree.root().try_clone();
            let root = root.map_err(|error| ExportError::io("opening the result")(error.into()))?;
            roots.push(ExportRoot { directory: directory.clone(), root });
        }
        let show = |bytes: u64| status.set(bytes, 0);
        session.send_tree(request.index, Vec::new(), roots, request.epoch, &show).await?;
        status.done();
        Ok(Exported::default())
    }
}

/// The files of a result as one tar file.
#[derive(Debug)]
pub(crate) struct TarExporter {
    daemon: Exporters,
}

impl TarExporter {
    pub(crate) fn new(daemon: Exporters, attrs: &mut Attrs) -> Result<Self> {
        attrs.refuse("attestation-prefix")?;
        attrs.refuse("platform-split")?;
        Ok(Self { daemon })
    }
}

#[async_trait]
impl Exporter for TarExporter {
    fn name(&self) -> String {
        "exporting to client tarball".into()
    }

    async fn export(&self, request: &ExportRequest) -> Result<Exported> {
        let [part] = &request.refs[..] else {
            return Err(ExportError::Result(
                "tar exporter: a result for several platforms is not supported yet: use the local exporter"
                    .into(),
            ));
        };
        let session = self.daemon.sessions.any(&request.sessions).await?;
        let tree = tree(part).await?;
        let status = request.reporter.status("sending tarball", "");
        let options = DiffOptions { source_date_epoch: request.epoch };
        stream::send_file(&session, request.index, Vec::new(), &status, move |out| {
            let Some(tree) = tree else {
                let empty = rbuild_oci::layer::LayerWriter::new(out);
                return empty.finish().map(drop).map_err(ExportError::io("sending"));
            };
            let written = Differ::new(None, options).diff_trees(tree.root(), out);
            written.map(drop).map_err(|error| ExportError::Content(error.to_string()))
        })
        .await?;
        status.done();
        Ok(Exported::default())
    }
}
