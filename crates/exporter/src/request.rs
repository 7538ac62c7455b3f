use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rbuild_oci::{ImageRef, Platform};
use rbuild_progress::Reporter;
use rbuild_registry::{Credentials, Registry};
use rbuild_session::{SessionGroup, SessionManager};
use rbuild_store::{LayerBlob, Ref, Store};

use crate::Attestation;
use crate::archive::{ArchiveExporter, ArchiveKind};
use crate::attrs::Attrs;
use crate::files::{LocalExporter, TarExporter};
use crate::image::ImageExporter;
use crate::{ExportError, Result};

/// One part of a result: what was built for one platform.
#[derive(Debug, Clone)]
pub struct ExportRef {
    /// The platform's id in a result for several (`linux/arm64`); `None` in a result for one.
    pub id: Option<String>,
    /// What it was built for; `None`: nobody said, the config decides.
    pub platform: Option<Platform>,
    /// The file system; `None` is an empty one.
    pub reference: Option<Ref>,
    /// Image config as the frontend made it; `None`: there is none.
    pub config: Option<Vec<u8>>,
    /// Config of the image that it was built on, as the frontend says: its layers and history are left alone.
    pub base: Option<Vec<u8>>,
    /// What is said about it.
    pub attestations: Vec<Attestation>,
}

/// A solved result that is to be exported.
#[derive(Debug)]
pub struct ExportRequest {
    /// At least one; more than one with ids.
    pub refs: Vec<ExportRef>,
    /// Where the client can be reached.
    pub sessions: SessionGroup,
    /// Credentials for registries.
    pub credentials: Arc<dyn Credentials>,
    /// The export's step in the build's progress.
    pub reporter: Reporter,
    /// The exporter's place among those of the build: how the client tells them apart.
    pub index: usize,
    /// `SOURCE_DATE_EPOCH` of the build, seconds since 1970.
    pub epoch: Option<i64>,
    /// Images that the result was made from: registries have their layers.
    pub bases: Vec<ImageRef>,
    /// Annotations that the result brings, named as the attributes are; those of the exporter's attributes win.
    pub annotations: BTreeMap<String, String>,
    /// Cache that travels in the config of images.
    pub inline_cache: Option<Arc<dyn InlineCache>>,
}

/// Makes the cache that travels in an image.
#[async_trait]
pub trait InlineCache: Send + Sync + std::fmt::Debug {
    /// Name and value of the config's field for the image of `reference` with these layers.
    async fn field(&self, reference: &Ref, layers: &[LayerBlob]) -> Result<(String, String)>;
}

impl ExportRequest {
    /// Whether the result is for several platforms by name (of which there may be one), and so gets an index.
    pub fn is_multi_platform(&self) -> bool {
        self.refs.iter().any(|part| part.id.is_some())
    }
}

/// What an export tells the client.
#[derive(Debug, Default)]
pub struct Exported {
    /// `containerimage.digest` and its kin.
    pub response: BTreeMap<String, String>,
}

/// Makes one kind of output.
#[async_trait]
pub trait Exporter: Send + Sync + std::fmt::Debug {
    /// The name of its step, for instance `exporting to image`.
    fn name(&self) -> String;

    /// Exports. Cancel: safe at any await.
    async fn export(&self, request: &ExportRequest) -> Result<Exported>;
}

/// What exporters need from the daemon.
#[derive(Debug, Clone)]
pub struct Exporters {
    /// Refs, blobs and images.
    pub store: Store,
    /// Clients.
    pub sessions: Arc<SessionManager>,
    /// Registries.
    pub registry: Arc<Registry>,
}

impl Exporters {
    /// An exporter of that type; `None` for `cacheonly`, which leaves the result in the cache.
    ///
    /// Errors: unknown types and attributes, values that make no sense.
    pub fn open(&self, kind: &str, attrs: &BTreeMap<String, String>) -> Result<Option<Arc<dyn Exporter>>> {
        let mut attrs = Attrs::new(kind, attrs);
        let exporter: Arc<dyn Exporter> = match kind {
            "cacheonly" => {
                attrs.finish()?;
                return Ok(None);
            }
            "image" => Arc::new(ImageExporter::new(self.clone(), &mut attrs)?),
            "oci" => Arc::new(ArchiveExporter::new(self.clone(), ArchiveKind::Oci, &mut attrs)?),
            "docker" => Arc::new(ArchiveExporter::new(self.clone(), ArchiveKind::Docker, &mut attrs)?),
            "local" => Arc::new(LocalExporter::new(self.clone(), &mut attrs)?),
            "tar" => Arc::new(TarExporter::new(self.clone(), &mut attrs)?),
            other => return Err(ExportError::UnknownType(other.to_owned())),
        };
        attrs.finish()?;
        Ok(Some(exporter))
    }
}
