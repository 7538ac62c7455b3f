//! The client's end of a session: what it offers to the daemon.
//!
//! Central type: [`ClientSession`]. The client is the HTTP/2 *server* on the stream it opened; it serves what was
//! attached and nothing else, so a hostile daemon gets no directory that was not shared, writes nowhere but into the
//! given outputs, and can make an ssh agent do nothing but list keys and sign.

mod agent;
mod auth;
mod dirs;
mod docker_config;
mod secrets;
mod serve;
mod stores;
mod targets;
mod uploads;

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use rbuild_api::moby::buildkit::v1::BytesMessage;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;

pub use agent::SshAgents;
pub use auth::{AuthProvider, DockerAuth, TokenFetcher};
pub use dirs::{LocalDir, LocalDirs};
pub use docker_config::DockerConfig;
pub use secrets::{SecretSource, Secrets};
pub use stores::ContentStores;
pub use targets::{ExportDestination, ExportTargets, OpenStream};
pub use uploads::Uploads;

use crate::tunnel::{OwnedTasks, tunnel};
use crate::{Result, SessionError, metadata, names};

/// Largest message taken from a daemon; upstream's limit.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// A session to be: an id, and what is offered under it. One session serves one run; a cheap handle.
#[derive(Clone, Debug)]
pub struct ClientSession {
    inner: Arc<Inner>,
}

struct Inner {
    id: String,
    name: String,
    shared_key: String,
    methods: Vec<&'static str>,
    routes: Routes,
    tasks: OwnedTasks,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSession")
            .field("id", &self.id)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// Collects what a session offers.
#[derive(Debug)]
pub struct ClientSessionBuilder {
    id: String,
    name: String,
    shared_key: String,
    dirs: Option<LocalDirs>,
    targets: Option<ExportTargets>,
    auth: Option<Arc<dyn AuthProvider>>,
    secrets: Option<Secrets>,
    agents: Option<SshAgents>,
    stores: Option<ContentStores>,
    uploads: Option<Uploads>,
}

impl ClientSessionBuilder {
    /// Uses this id instead of a random one.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// A name for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Tells the daemon which earlier copies of directories to start from.
    pub fn shared_key(mut self, key: impl Into<String>) -> Self {
        self.shared_key = key.into();
        self
    }

    /// Offers directories.
    pub fn dirs(mut self, dirs: LocalDirs) -> Self {
        self.dirs = Some(dirs);
        self
    }

    /// Takes results.
    pub fn targets(mut self, targets: ExportTargets) -> Self {
        self.targets = Some(targets);
        self
    }

    /// Offers registry credentials.
    pub fn auth(mut self, auth: Arc<dyn AuthProvider>) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Offers secrets.
    pub fn secrets(mut self, secrets: Secrets) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// Offers ssh agents.
    pub fn ssh(mut self, agents: SshAgents) -> Self {
        self.agents = Some(agents);
        self
    }

    /// Offers content stores.
    pub fn stores(mut self, stores: ContentStores) -> Self {
        self.stores = Some(stores);
        self
    }

    /// Offers streams.
    pub fn uploads(mut self, uploads: Uploads) -> Self {
        self.uploads = Some(uploads);
        self
    }

    /// The session, not yet opened.
    pub fn build(self) -> ClientSession {
        self.build_with(&[], |routes| routes)
    }

    /// With further services, which offer these methods.
    pub(crate) fn build_with(
        self,
        more: &[&'static str],
        add: impl FnOnce(Routes) -> Routes,
    ) -> ClientSession {
        let token = CancellationToken::new();
        let tasks = OwnedTasks { tracker: tokio_util::task::TaskTracker::new(), token };
        let mut methods = vec![names::HEALTH_CHECK];
        methods.extend(more);
        let mut routes = add(Routes::new(serve::health()));
        if let Some(dirs) = self.dirs {
            methods.extend([names::FILE_SYNC_DIFF_COPY, names::FILE_SYNC_BATCHED]);
            let service = dirs::DirService::new(dirs, tasks.clone());
            routes = routes.add_service(service.batched()).add_service(service);
        }
        if let Some(targets) = self.targets {
            methods.push(names::FILE_SEND_DIFF_COPY);
            routes = routes.add_service(targets::FileSendService::new(targets, tasks.clone()));
        }
        if let Some(auth) = self.auth {
            methods.push(names::AUTH_CREDENTIALS);
            if auth.fetches_tokens() {
                methods.push(names::AUTH_FETCH_TOKEN);
            }
            routes = routes.add_service(auth::service(auth));
        }
        if let Some(secrets) = self.secrets {
            methods.push(names::SECRETS_GET);
            routes = routes.add_service(secrets::service(secrets));
        }
        if let Some(agents) = self.agents {
            methods.extend([names::SSH_CHECK_AGENT, names::SSH_FORWARD_AGENT]);
            routes = routes.add_service(agent::service(agents, tasks.clone()));
        }
        if let Some(stores) = self.stores.filter(|stores| !stores.is_empty()) {
            methods.extend(names::CONTENT);
            routes = routes.add_service(stores::service(stores, tasks.clone()));
        }
        if let Some(uploads) = self.uploads {
            methods.push(names::UPLOAD_PULL);
            routes = routes.add_service(uploads::service(uploads));
        }
        let Self { id, name, shared_key, .. } = self;
        let inner = Inner { id, name, shared_key, methods, routes: routes.prepare(), tasks };
        ClientSession { inner: Arc::new(inner) }
    }
}

impl ClientSession {
    /// Starts with a random id and nothing to offer.
    pub fn builder() -> ClientSessionBuilder {
        ClientSessionBuilder {
            id: rbuild_digest::random_id(),
            name: String::new(),
            shared_key: String::new(),
            dirs: None,
            targets: None,
            auth: None,
            secrets: None,
            agents: None,
            stores: None,
            uploads: None,
        }
    }

    /// The id by which requests name this session.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Opens the session at a daemon and serves it until the daemon ends it or [`ClientSession::close`].
    ///
    /// Run it beside the build, and close it when the build is over. Cancel: by drop.
    pub async fn run(&self, channel: Channel) -> Result<()> {
        let mut control = ControlClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        self.run_with(|outbound, map| async move {
            let messages = ReceiverStream::new(outbound).map(|chunk: Bytes| BytesMessage { data: chunk });
            let mut request = tonic::Request::new(messages);
            *request.metadata_mut() = map;
            let answer = control.session(request).await;
            let inbound =
                answer.map_err(|status| SessionError::call("opening the session", status))?.into_inner();
            Ok(inbound.map(|message| message.map(|message| message.data).map_err(io::Error::other)))
        })
        .await
    }

    /// As [`ClientSession::run`] over anything that carries the bytes: `open` is given what goes out and the metadata,
    /// and returns what comes in.
    pub(crate) async fn run_with<O, F, S>(&self, open: O) -> Result<()>
    where
        O: FnOnce(mpsc::Receiver<Bytes>, tonic::metadata::MetadataMap) -> F,
        F: Future<Output = Result<S>>,
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let inner = &self.inner;
        // Everything that this run started ends with it, also when it is dropped.
        let _stop = inner.tasks.token.clone().drop_guard();
        let (inlet, inbound) = serve::inlet::<S>();
        let (io, outbound) = tunnel(inbound, inner.tasks.token.clone());
        let connection = serve::connection(io, inner.routes.clone(), inner.tasks.clone());
        let map = self.metadata()?;
        let work = async {
            let inbound = open(outbound, map).await?;
            // The connection below polls for it.
            drop(inlet.send(inbound));
            std::future::pending().await
        };
        let result = tokio::select! {
            result = connection => result,
            failed = work => failed,
            () = inner.tasks.token.cancelled() => Ok(()),
        };
        inner.tasks.token.cancel();
        result
    }

    /// Ends the session: whatever is in flight is cut off.
    pub fn close(&self) {
        self.inner.tasks.token.cancel();
    }

    fn metadata(&self) -> Result<tonic::metadata::MetadataMap> {
        let mut map = tonic::metadata::MetadataMap::new();
        metadata::append_one(&mut map, names::SESSION_ID, &self.inner.id)?;
        metadata::append_one(&mut map, names::SESSION_NAME, &ascii(&self.inner.name))?;
        metadata::append_one(&mut map, names::SESSION_SHARED_KEY, &ascii(&self.inner.shared_key))?;
        for method in &self.inner.methods {
            metadata::append_one(&mut map, names::SESSION_METHOD, method)?;
        }
        Ok(map)
    }
}

/// A name for people, as far as metadata can carry it.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' }).collect()
}
