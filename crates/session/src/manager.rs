use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rbuild_api::moby::buildkit::v1::BytesMessage;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::tunnel::{CONNECTION_WINDOW, OwnedTasks, STREAM_WINDOW, TunnelIo, tunnel};
use crate::{Result, Session, SessionError, SessionGroup, health, metadata, names};

/// How long [`SessionManager::any`] waits for one of a group's sessions to arrive: they are opened beside the request.
const GROUP_WAIT: Duration = Duration::from_secs(5);
/// Methods one client may list; there are two dozen in all.
const MAX_METHODS: usize = 256;

/// What a client says about itself when it opens a session.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// Unique id; builds name the session by it.
    pub id: String,
    /// For people.
    pub name: String,
    /// Identifies the client's directories over many builds; may be empty.
    pub shared_key: String,
    /// Full method paths the client serves.
    pub methods: Vec<String>,
    /// Asks for this interval and time-out of health checks, one failure ending the session.
    pub health_timeout: Option<Duration>,
    /// Who opened it, as the listener knows (certificate name, user id); the session belongs to it.
    pub identity: Option<String>,
}

impl Registration {
    /// From the metadata of the `Control.Session` call.
    ///
    /// Errors: [`SessionError::Invalid`] without a usable id, or with an absurd list of methods.
    pub fn from_metadata(map: &MetadataMap) -> Result<Self> {
        let invalid = |what: &str| SessionError::Invalid { what: what.to_owned() };
        let id = metadata::first(map, names::SESSION_ID).unwrap_or_default();
        if !rbuild_digest::is_safe_id(&id) {
            return Err(invalid("the session id is missing or malformed"));
        }
        let methods = metadata::values(map, names::SESSION_METHOD);
        if methods.len() > MAX_METHODS {
            return Err(invalid("too many methods"));
        }
        let millis = metadata::first(map, names::SESSION_HEALTH_TIMEOUT).and_then(|text| text.parse().ok());
        Ok(Self {
            id,
            name: metadata::first(map, names::SESSION_NAME).unwrap_or_default(),
            shared_key: metadata::first(map, names::SESSION_SHARED_KEY).unwrap_or_default(),
            methods,
            health_timeout: millis.filter(|ms| *ms > 0).map(Duration::from_millis),
            identity: None,
        })
    }

    /// The same, belonging to `identity`.
    pub fn with_identity(mut self, identity: Option<String>) -> Self {
        self.identity = identity;
        self
    }
}

/// The sessions that are open. A cheap handle; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct SessionManager {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: Mutex<HashMap<String, Session>>,
    changed: watch::Sender<()>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl SessionManager {
    /// None open yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a session on the bytes of `inbound` and returns the bytes to send back. The session lives until either
    /// stream ends (dropping the returned one ends it), its health checks fail, or [`SessionManager::shutdown`].
    ///
    /// Errors: [`SessionError::Exists`] if the id is taken. Must be called inside a tokio runtime.
    pub fn accept<S>(&self, registration: Registration, inbound: S) -> Result<SessionStream>
    where
        S: Stream<Item = std::result::Result<BytesMessage, Status>> + Send + 'static,
    {
        let token = self.inner.closed.child_token();
        let chunks = inbound.map(|item| match item {
            Ok(message) => Ok(message.data),
            Err(status) => Err(io::Error::other(status)),
        });
        let mut sessions = self.inner.sessions.lock();
        if sessions.get(&registration.id).is_some_and(|session| !session.is_closed()) {
            return Err(SessionError::Exists { id: registration.id });
        }
        let (io, outbound) = tunnel(chunks, token.clone());
        let tasks = OwnedTasks { tracker: self.inner.tasks.clone(), token: token.clone() };
        let settings = health::Settings::new(registration.health_timeout);
        let session = Session::new(registration, channel(io, tasks), token.clone());
        sessions.insert(session.id().to_owned(), session.clone());
        drop(sessions);
        self.inner.changed.send_replace(());
        tracing::debug!(session = session.id(), name = session.name(), "session opened");
        let inner = Arc::downgrade(&self.inner);
        self.inner.tasks.spawn(async move {
            health::watch(&session, settings).await;
            session.close();
            tracing::debug!(session = session.id(), "session closed");
            if let Some(inner) = inner.upgrade() {
                let mut sessions = inner.sessions.lock();
                if sessions.get(session.id()).is_some_and(|known| known.same(&session)) {
                    sessions.remove(session.id());
                }
            }
        });
        Ok(SessionStream { outbound, token: token.clone(), closed: Box::pin(token.cancelled_owned()) })
    }

    /// The session `id`, waiting up to `wait` for it to arrive (`None`: not at all; `Duration::MAX`: as long as the
    /// caller likes to poll). A prefix up to a colon is not part of the id.
    ///
    /// Errors: [`SessionError::NotFound`].
    pub async fn get(&self, id: &str, wait: Option<Duration>) -> Result<Session> {
        let id = match id.split_once(':') {
            Some((_, rest)) if !rest.is_empty() => rest,
            _ => id,
        };
        let mut changed = self.inner.changed.subscribe();
        let deadline = wait.and_then(|wait| Instant::now().checked_add(wait));
        loop {
            if let Some(session) = self.find(id) {
                return Ok(session);
            }
            let waited = match (wait, deadline) {
                (None, _) => false,
                (Some(_), None) => changed.changed().await.is_ok(),
                (_, Some(deadline)) => {
                    matches!(tokio::time::timeout_at(deadline, changed.changed()).await, Ok(Ok(())))
                }
            };
            if !waited {
                return Err(SessionError::NotFound { id: id.to_owned() });
            }
        }
    }

    /// The first open session of `group`, waiting a few seconds for one to arrive.
    ///
    /// Errors: [`SessionError::NoSession`].
    pub async fn any(&self, group: &SessionGroup) -> Result<Session> {
        self.any_where(group, |_| true).await
    }

    /// The first open session of `group` that serves `method`.
    ///
    /// Errors: [`SessionError::Unsupported`] if sessions are open but none serves it; [`SessionError::NoSession`].
    pub async fn any_with(&self, group: &SessionGroup, method: &'static str) -> Result<Session> {
        match self.any_where(group, |session| session.supports(method)).await {
            Err(SessionError::NoSession) if group.ids().iter().any(|id| self.find(id).is_some()) => {
                Err(SessionError::Unsupported { method })
            }
            other => other,
        }
    }

    async fn any_where(&self, group: &SessionGroup, wanted: impl Fn(&Session) -> bool) -> Result<Session> {
        let (mut sessions, mut members) = (self.inner.changed.subscribe(), group.watch());
        let deadline = Instant::now() + GROUP_WAIT;
        loop {
            let ids = group.ids();
            let open: Vec<Session> = ids.iter().filter_map(|id| self.find(id)).collect();
            if let Some(session) = open.iter().find(|session| wanted(session)) {
                return Ok(session.clone());
            }
            // Nobody to wait for: no session was named, or all that were named are here.
            if open.len() == ids.len() {
                return Err(SessionError::NoSession);
            }
            let next = async {
                tokio::select! {
                    one = sessions.changed() => one.is_ok(),
                    one = members.changed() => one.is_ok(),
                }
            };
            if !matches!(tokio::time::timeout_at(deadline, next).await, Ok(true)) {
                return Err(SessionError::NoSession);
            }
        }
    }

    /// The session of that id, if it is open now.
    pub fn find(&self, id: &str) -> Option<Session> {
        self.inner.sessions.lock().get(id).filter(|session| !session.is_closed()).cloned()
    }

    /// Ids of the open sessions.
    pub fn ids(&self) -> Vec<String> {
        self.inner.sessions.lock().keys().cloned().collect()
    }

    /// Closes all sessions and waits until their tasks have ended. No session can be opened afterwards.
    pub async fn shutdown(&self) {
        self.inner.closed.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// gRPC over the tunnel. There is one connection; once it is gone every call fails.
fn channel(io: TunnelIo, tasks: OwnedTasks) -> Channel {
    let slot = Arc::new(Mutex::new(Some(io)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = slot.lock().take();
        async move {
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "the session's connection is gone");
            io.map(TokioIo::new).ok_or_else(gone)
        }
    });
    Endpoint::from_static("http://localhost")
        .executor(tasks)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector_lazy(connector)
}

/// The bytes to send back to the client: the response of `Control.Session`. Dropping it ends the session.
pub struct SessionStream {
    outbound: mpsc::Receiver<Bytes>,
    token: CancellationToken,
    closed: Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
}

impl std::fmt::Debug for SessionStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionStream").field("closed", &self.token.is_cancelled()).finish_non_exhaustive()
    }
}

impl Stream for SessionStream {
    type Item = std::result::Result<BytesMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(chunk) = self.outbound.poll_recv(cx) {
            return Poll::Ready(chunk.map(|chunk| Ok(BytesMessage { data: chunk })));
        }
        self.closed.as_mut().poll(cx).map(|()| None)
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        self.token.cancel();
    }
}
