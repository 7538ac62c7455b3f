use async_trait::async_trait;
use rbuild_oci::ImageRef;

use crate::assemble::assemble;
use crate::attrs::{Attrs, ImageOptions};
use crate::request::{ExportRequest, Exported, Exporter, Exporters};
use crate::{ExportError, Result, push};

/// An image in the daemon's store, and in a registry if it is pushed.
#[derive(Debug)]
pub(crate) struct ImageExporter {
    daemon: Exporters,
    options: ImageOptions,
    push: bool,
    by_digest: bool,
    insecure: bool,
    store: bool,
    canonical: bool,
    dangling_prefix: Option<String>,
}

impl ImageExporter {
    pub(crate) fn new(daemon: Exporters, attrs: &mut Attrs) -> Result<Self> {
        let options = ImageOptions::take(attrs, true)?;
        // Unpacking is what a cache hit on FROM does when it is needed: there is nothing to do beforehand.
        attrs.flag("unpack")?;
        let exporter = Self {
            push: attrs.flag("push")?.unwrap_or(false),
            by_digest: attrs.flag("push-by-digest")?.unwrap_or(false),
            insecure: attrs.flag("registry.insecure")?.unwrap_or(false),
            store: attrs.flag("store")?.unwrap_or(true),
            canonical: attrs.flag("name-canonical")?.unwrap_or(false),
            dangling_prefix: attrs.take("dangling-name-prefix").filter(|prefix| !prefix.is_empty()),
            daemon,
            options,
        };
        for name in &exporter.options.names {
            ImageRef::parse(name).map_err(|error| attrs.bad("name", name, &error.to_string()))?;
        }
        if exporter.push && exporter.options.names.is_empty() {
            return Err(attrs.bad("push", "true", "a push needs a name"));
        }
        Ok(exporter)
    }
}

#[async_trait]
impl Exporter for ImageExporter {
    fn name(&self) -> String {
        "exporting to image".into()
    }

    async fn export(&self, request: &ExportRequest) -> Result<Exported> {
        let image = assemble(&self.daemon.store, &self.options, request).await?;
        let mut names = Vec::new();
        for text in &self.options.names {
            let name = ImageRef::parse(text).map_err(|error| ExportError::Result(error.to_string()))?;
            if self.by_digest && !name.is_name_only() {
                return Err(ExportError::Result(format!("can't push tagged ref {text} by digest")));
            }
            names.push(if name.is_name_only() && self.by_digest { name } else { name.tag_or_latest() });
        }
        let blobs = image.blobs();
        let mut stored: Vec<String> = names.iter().map(ToString::to_string).collect();
        // What the client is told are the names as it gave them.
        let mut said = self.options.names.clone();
        if let (Some(prefix), true) = (&self.dangling_prefix, stored.is_empty()) {
            stored.push(format!("{prefix}@{}", image.target.digest));
            said.clone_from(&stored);
        }
        if self.canonical {
            stored.extend(
                names.iter().map(|name| name.name_only().with_digest(image.target.digest).to_string()),
            );
        }
        if self.store {
            for name in &stored {
                let naming = request.reporter.status(&format!("naming to {name}"), "");
                self.daemon.store.put_image(name, image.target.clone(), &blobs).await?;
                naming.done();
            }
        }
        if self.push {
            let options = push::PushOptions { by_digest: self.by_digest, insecure: self.insecure };
            for name in &names {
                push::push(&self.daemon, request, &image, name, &options).await?;
            }
        }
        let mut response = image.response();
        if !said.is_empty() {
            response.insert("image.name".into(), said.join(","));
        }
        Ok(Exported { response })
    }
}
