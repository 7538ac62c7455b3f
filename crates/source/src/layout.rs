use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use rbuild_digest::Digest;
use rbuild_oci::{ByteStream, Descriptor, Provider, media};
use rbuild_session::names::CONTENT_READ;
use rbuild_session::{Session, SessionGroup, SessionManager};
use serde::Deserialize;

use crate::{SourceError, SourceRequest};

/// How long a build waits for the session that it names: Solve and Session are opened side by side.
const SESSION_WAIT: Duration = Duration::from_secs(5);
/// What the ids of layouts begin with among a client's content stores.
const PREFIX: &str = "oci:";

/// The blobs of a directory in OCI layout that a client shares.
#[derive(Debug)]
pub(crate) struct ClientLayout {
    sessions: Arc<SessionManager>,
    /// Whose it is; empty: any client's of the build that has it.
    session: String,
    group: SessionGroup,
    store: String,
}

impl ClientLayout {
    /// The layout that a request means. Errors: it names none.
    pub(crate) fn of(request: &SourceRequest, sessions: Arc<SessionManager>) -> Result<Self, SourceError> {
        let store = request.attr("oci.store").ok_or_else(|| SourceError::Invalid {
            identifier: request.op.identifier.clone(),
            reason: "it does not say which layout of the client is meant".into(),
        })?;
        let session = request.attr("oci.session").unwrap_or_default().to_owned();
        Ok(Self { sessions, session, group: request.sessions.clone(), store: format!("{PREFIX}{store}") })
    }

    async fn session(&self) -> Result<Session, SourceError> {
        match self.session.as_str() {
            "" => Ok(self.sessions.any_with(&self.group, CONTENT_READ).await?),
            id => Ok(self.sessions.get(id, Some(SESSION_WAIT)).await?),
        }
    }

    /// What a digest stands for: a layout's blobs do not say themselves.
    pub(crate) async fn describe(&self, digest: Digest, limit: u64) -> Result<Descriptor, SourceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let bytes = self.small(&digest, limit).await?;
        let shape: Shape = serde_json::from_slice(&bytes).map_err(|error| SourceError::Invalid {
            identifier: digest.to_string(),
            reason: format!("blob of the client's OCI layout: {error}"),
        })?;
        let kind = if shape.manifests.is_some() { media::OCI_INDEX } else { media::OCI_MANIFEST };
        let media_type = shape.media_type.filter(|kind| !kind.is_empty()).unwrap_or_else(|| kind.to_owned());
        Ok(Descriptor::of(&media_type, &bytes))
    }

    /// A small blob, verified.
    pub(crate) async fn small(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, SourceError> {
        let what = format!("blob {digest} of the client's OCI layout");
        let read = self.session().await?.read_blob(&self.store, &digest.to_string(), 0).await;
        let mut pieces = match read {
            Err(error) if error.is_not_found() => return Err(SourceError::NotFound { what }),
            read => std::pin::pin!(read?),
        };
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            match piece {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(SourceError::NotFound { what });
                }
                piece => {
                    bytes.extend_from_slice(&piece.map_err(|error| SourceError::io(what.clone(), error))?)
                }
            }
            if bytes.len() as u64 > limit {
                let reason = format!("it is larger than {limit} bytes");
                return Err(SourceError::Invalid { identifier: what, reason });
            }
        }
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(SourceError::Digest { what, expected: *digest, found }),
        }
    }
}

#[async_trait]
impl Provider for ClientLayout {
    async fn open(&self, desc: &Descriptor, offset: u64) -> io::Result<ByteStream> {
        let session = self.session().await.map_err(io::Error::other)?;
        let read = session.read_blob(&self.store, &desc.digest.to_string(), offset).await;
        match read {
            Ok(pieces) => Ok(pieces.boxed()),
            Err(error) if error.is_not_found() => Err(io::Error::new(io::ErrorKind::NotFound, error)),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
