use std::sync::Arc;

use async_trait::async_trait;
use rbuild_oci::{ByteStream, Descriptor, Provider};
use rbuild_session::{SessionGroup, SessionManager};

/// The blobs of a place, while a client of the build is connected: later builds may have no right to them. A build
/// without any client has none to lose.
#[derive(Debug)]
pub(crate) struct WhileConnected {
    pub(crate) inner: Arc<dyn Provider>,
    pub(crate) sessions: Arc<SessionManager>,
    pub(crate) group: SessionGroup,
}

#[async_trait]
impl Provider for WhileConnected {
    async fn open(&self, desc: &Descriptor, offset: u64) -> std::io::Result<ByteStream> {
        self.inner.open(desc, offset).await
    }

    fn is_open(&self) -> bool {
        let ids = self.group.ids();
        self.inner.is_open() && (ids.is_empty() || self.sessions.ids().iter().any(|id| ids.contains(id)))
    }
}
