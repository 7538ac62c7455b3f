//! What a source is right now, for frontends: an image's digest and config, a commit, a file's digest.

use std::collections::BTreeMap;

use rbuild_digest::Digest;
use rbuild_llb::SourceOp;
use rbuild_oci::Platform;
use rbuild_progress::Reporter;
use rbuild_source::{GitPin, Pin, PinDetail, SourceRequest};

use crate::error::OpError;
use crate::scope::Scope;
use crate::worker::Worker;

/// Asks what an image name stands for.
#[derive(Debug, Clone, Default)]
pub struct ImageRequest {
    /// The image's name as a user wrote it.
    pub reference: String,
    /// Which platform; `None` is the daemon's own.
    pub platform: Option<Platform>,
    /// `default`, `pull` or `local`; empty is `default`.
    pub mode: String,
    /// For `oci-layout://` images: (session id, store id).
    pub oci_layout: Option<(String, String)>,
}

/// An image, resolved.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Its full name, with the digest.
    pub reference: String,
    /// Digest of the manifest or index that the name points to.
    pub digest: Digest,
    /// The config's JSON for the asked platform.
    pub config: Vec<u8>,
    /// The platform that was chosen.
    pub platform: Platform,
}

/// A source, resolved.
#[derive(Debug, Clone, Default)]
pub struct ResolvedSource {
    /// For images.
    pub image: Option<ResolvedImage>,
    /// For git.
    pub git: Option<GitPin>,
    /// For http: content digest, file name, last modified in unix seconds.
    pub http: Option<(Digest, String, Option<i64>)>,
}

impl Worker {
    /// What an image name stands for now; the same answer all through one build.
    pub async fn resolve_image(
        &self,
        scope: &Scope,
        reporter: &Reporter,
        request: ImageRequest,
    ) -> Result<ResolvedImage, OpError> {
        let mut attrs = BTreeMap::new();
        let scheme = match &request.oci_layout {
            None => "docker-image",
            Some((session, store)) => {
                attrs.insert("oci.session".to_owned(), session.clone());
                attrs.insert("oci.store".to_owned(), store.clone());
                "oci-layout"
            }
        };
        if !request.mode.is_empty() {
            attrs.insert("image.resolvemode".to_owned(), request.mode);
        }
        let source = SourceOp::new(format!("{scheme}://{}", request.reference), attrs);
        let resolved = self.resolve_source(scope, reporter, &source, request.platform).await?;
        let none = || OpError::invalid(format!("`{}` does not name an image", request.reference));
        resolved.image.ok_or_else(none)
    }

    /// What any source is now; the same answer all through one build.
    pub async fn resolve_source(
        &self,
        scope: &Scope,
        reporter: &Reporter,
        source: &SourceOp,
        platform: Option<Platform>,
    ) -> Result<ResolvedSource, OpError> {
        let request = SourceRequest {
            op: source.clone(),
            platform,
            sessions: scope.sessions.clone(),
            reporter: reporter.clone(),
            description: source.identifier.clone(),
            memo: scope.memo.clone(),
        };
        let pin = self.source(source)?.resolve(&request).await?;
        Ok(resolved(&pin))
    }
}

fn resolved(pin: &Pin) -> ResolvedSource {
    let mut resolved = ResolvedSource::default();
    match &pin.detail {
        PinDetail::Image(image) => {
            resolved.image = Some(ResolvedImage {
                reference: image.reference.to_string(),
                digest: image.digest,
                config: image.config.to_vec(),
                platform: image.platform.clone(),
            });
        }
        PinDetail::Git(git) => resolved.git = Some(git.clone()),
        PinDetail::Http(http) => {
            resolved.http = Some((http.digest, http.filename.clone(), http.last_modified_s));
        }
        PinDetail::Local => {}
    }
    resolved
}
