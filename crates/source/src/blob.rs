use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, ImageRef, Provider as _};
use rbuild_registry::{Registry, RepoOptions, Repository};
use rbuild_session::SessionManager;
use rbuild_store::{Ref, Store};

use crate::http::download::{self, Body, FileForm};
use crate::http::question::{DEFAULT_MODE, FileKey, parse_number};
use crate::layout::ClientLayout;
use crate::{HttpPin, Pin, PinDetail, SessionCredentials, Source, SourceError, SourceRequest};

/// Scheme of blobs in a client's layout.
const LAYOUT: &str = "oci-layout+blob";

/// `docker-image+blob://`: one blob of a repository, as a file. `oci-layout+blob://`: one of a directory that a client
/// shares. Both are named by digest; the file has no time.
#[derive(Debug)]
pub struct BlobSource {
    store: Store,
    registry: Arc<Registry>,
    sessions: Arc<SessionManager>,
}

/// A request, parsed.
#[derive(Debug)]
struct Question {
    name: ImageRef,
    digest: Digest,
    form: FileForm,
}

impl BlobSource {
    /// Blobs come from `registry`, with the credentials of sessions in `sessions`.
    pub fn new(store: Store, registry: Arc<Registry>, sessions: Arc<SessionManager>) -> Self {
        Self { store, registry, sessions }
    }

    fn repository(&self, name: &ImageRef, request: &SourceRequest) -> Result<Repository, SourceError> {
        request.memo.repository(&name.repository(), || {
            let credentials = SessionCredentials::new(self.sessions.clone(), request.sessions.clone());
            Ok(self.registry.repository(name, Arc::new(credentials), RepoOptions::default())?)
        })
    }

    /// The blob's bytes, not verified, and how many they are if that is known.
    async fn open(
        &self,
        question: &Question,
        request: &SourceRequest,
    ) -> Result<Body<BoxStream<'static, Result<Bytes, SourceError>>>, SourceError> {
        let what = format!("blob {}", question.digest);
        let (stream, total) = if request.scheme() == LAYOUT {
            // A layout does not tell sizes: it is read to its end.
            let desc = Descriptor::new("application/octet-stream", question.digest, 0);
            let layout = ClientLayout::of(request, self.sessions.clone())?;
            (layout.open(&desc, 0).await.map_err(|error| broken(&what, error))?, 0)
        } else {
            let repository = self.repository(&question.name, request)?;
            let desc = repository.describe_blob(question.digest).await?;
            (repository.blob(&desc, 0).await?, desc.size)
        };
        Ok(Body { pieces: stream.map_err(move |error| broken(&what, error)).boxed(), total })
    }
}

fn broken(what: &str, error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound { what: what.to_owned() },
        _ => SourceError::io(what.to_owned(), error),
    }
}

impl Question {
    fn parse(request: &SourceRequest) -> Result<Self, SourceError> {
        let invalid =
            |reason: String| SourceError::Invalid { identifier: request.op.identifier.clone(), reason };
        let name = ImageRef::parse(request.rest()).map_err(|error| invalid(error.to_string()))?;
        let digest = name.digest().ok_or_else(|| invalid("a blob is named by its digest".into()))?;
        let number = |attr: &str| match request.attr(attr) {
            None => Ok(None),
            Some(text) => parse_number(text).map(Some).ok_or_else(|| invalid(format!("bad {attr} `{text}`"))),
        };
        let filename = request.attr("http.filename").map_or_else(|| digest.hex(), str::to_owned);
        if filename.contains(['/', '\0']) || filename == "." || filename == ".." {
            return Err(invalid(format!("`{filename}` is not a file name")));
        }
        let form = FileForm {
            name: filename,
            mode: number("http.perm")?.unwrap_or(DEFAULT_MODE) & 0o7777,
            uid: number("http.uid")?.unwrap_or(0),
            gid: number("http.gid")?.unwrap_or(0),
            mtime_s: 0,
        };
        Ok(Self { name, digest, form })
    }

    fn key(&self) -> String {
        let FileForm { name, mode, uid, gid, .. } = &self.form;
        let (perm, uid, gid) = (*mode, *uid, *gid);
        FileKey { filename: name, perm, uid, gid, checksum: self.digest, last_mod_time: "" }.key()
    }
}

#[async_trait]
impl Source for BlobSource {
    fn schemes(&self) -> &'static [&'static str] {
        &["docker-image+blob", LAYOUT]
    }

    async fn resolve(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        let question = Question::parse(request)?;
        let pin = HttpPin {
            digest: question.digest,
            filename: question.form.name.clone(),
            last_modified_s: None,
            etag: None,
            content: None,
        };
        let (key, detail) = (question.key(), PinDetail::Http(pin));
        Ok(Pin { key, aliases: Vec::new(), volatile: false, detail })
    }

    async fn fetch(&self, request: &SourceRequest, _pin: &Pin) -> Result<Ref, SourceError> {
        let question = Question::parse(request)?;
        let what = format!("blob {}", question.digest);
        let status = request.reporter.status(&what, "downloading");
        let body = self.open(&question, request).await?;
        let (content, found) = download::save(&self.store, body, &question.form, &what, &status).await?;
        match found == question.digest {
            true => Ok(content),
            false => Err(SourceError::Digest { what, expected: question.digest, found }),
        }
    }
}
