//! `local://`: a directory of the client.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rbuild_digest::{Hasher, random_id};
use rbuild_progress::StatusHandle;
use rbuild_session::filesync::{
    FileSyncRequest, ReceiveOptions, RecordHasher, Stat, TransferCounter, TreeIndex, receive,
};
use rbuild_session::{Session, SessionManager};
use rbuild_store::{ContextEntry, EntryKind, FileHeader, Ref, Store};

use crate::{Pin, PinDetail, Source, SourceError, SourceRequest};

/// How long a build waits for the session that it names: Solve and Session are opened side by side.
const SESSION_WAIT: Duration = Duration::from_secs(5);
/// How often a transfer's counter is looked at.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// Directories of clients, as copies that the next transfer starts from.
#[derive(Debug)]
pub struct LocalSource {
    store: Store,
    sessions: Arc<SessionManager>,
}

/// What an op asks for, read from its attributes.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    sync: FileSyncRequest,
    session: Option<String>,
    key_hint: String,
    /// Request every file, whatever the earlier copy says.
    all: bool,
}

impl LocalSource {
    /// A source over the clients of `sessions`.
    pub fn new(store: Store, sessions: Arc<SessionManager>) -> Self {
        Self { store, sessions }
    }

    async fn session(&self, asked: &Asked, request: &SourceRequest) -> Result<Session, SourceError> {
        match &asked.session {
            Some(id) => Ok(self.sessions.get(id, Some(SESSION_WAIT)).await?),
            None => Ok(self.sessions.any(&request.sessions).await?),
        }
    }
}

/// A list attribute: JSON, as upstream writes it.
fn list(request: &SourceRequest, name: &str) -> Result<Vec<String>, SourceError> {
    let Some(text) = request.attr(name) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| invalid(request, format!("`{name}` is no JSON list: {error}")))
}

fn invalid(request: &SourceRequest, reason: String) -> SourceError {
    SourceError::Invalid { identifier: request.op.identifier.clone(), reason }
}

impl Asked {
    fn read(request: &SourceRequest) -> Result<Self, SourceError> {
        let name = request.rest();
        if name.is_empty() {
            return Err(invalid(request, "the name of the directory is missing".into()));
        }
        if request.attr("local.metadatatransfer").is_some_and(|value| value != "false") {
            return Err(SourceError::Unsupported { what: "`local.metadatatransfer`".into() });
        }
        let all = match request.attr("local.differ") {
            None | Some("metadata") => false,
            Some("none") => true,
            Some(other) => return Err(invalid(request, format!("unknown `local.differ` value `{other}`"))),
        };
        Ok(Self {
            sync: FileSyncRequest {
                name: name.to_owned(),
                include: list(request, "local.includepattern")?,
                exclude: list(request, "local.excludepatterns")?,
                follow_paths: list(request, "local.followpaths")?,
            },
            session: request.attr("local.session").map(str::to_owned),
            key_hint: request.attr("local.sharedkeyhint").unwrap_or_default().to_owned(),
            all,
        })
    }

    /// Identifies the earlier copy. Source: protocol notes, "File transfer" ("Identity of the earlier copy").
    fn copy_key(&self, session: &Session) -> String {
        let parts = [self.sync.name.as_str(), &self.key_hint, session.shared_key()];
        let mut key = Hasher::new();
        for part in parts {
            key.field(part);
        }
        format!("local:{}:{}", self.sync.name, key.finish().hex())
    }
}

#[async_trait]
impl Source for LocalSource {
    fn schemes(&self) -> &'static [&'static str] {
        &["local"]
    }

    async fn resolve(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        Asked::read(request)?;
        // Unmatchable: what the client's directory holds is known only when it is here.
        let key = format!("session:{}:{}", request.op.identifier, random_id());
        Ok(Pin { key, aliases: Vec::new(), volatile: true, detail: PinDetail::Local })
    }

    async fn fetch(&self, request: &SourceRequest, _pin: &Pin) -> Result<Ref, SourceError> {
        let asked = Asked::read(request)?;
        let session = self.session(&asked, request).await?;
        let description = format!("local source for {}", asked.sync.name);
        let context = self.store.local_context(&asked.copy_key(&session), &description).await?;
        let previous = context.index().and_then(|bytes| TreeIndex::read_from(bytes).ok());
        let counter = TransferCounter::new();
        let options =
            ReceiveOptions { request_all: asked.all, counter: counter.clone(), ..ReceiveOptions::default() };
        let status = request.reporter.status(&format!("transferring {}:", asked.sync.name), "transferring");
        let root = context.root()?;
        let received = {
            let work = receive(&session, &asked.sync, root, previous.as_ref(), Arc::new(Headers), &options);
            tokio::select! {
                received = work => received,
                never = show(&status, &counter) => match never {},
            }
        };
        let index = match received {
            Ok(index) => index,
            Err(error) => {
                if let Err(error) = context.discard().await {
                    tracing::debug!(%error, "emptying a context whose transfer failed");
                }
                return Err(error.into());
            }
        };
        status.transferred(counter.bytes(), counter.files());
        status.done();
        let (entries, bytes) = tokio::task::spawn_blocking(move || describe(&index))
            .await
            .map_err(|error| SourceError::io("describing a context", std::io::Error::other(error)))?
            .map_err(|error| SourceError::io("writing the index of a context", error))?;
        Ok(context.finish(bytes, entries).await?)
    }
}

async fn show(status: &StatusHandle, counter: &TransferCounter) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(SHOW_EVERY);
    loop {
        ticks.tick().await;
        if counter.bytes() > 0 {
            status.transferred(counter.bytes(), counter.files());
        }
    }
}

/// What the store wants to know of the files, and the index for the next transfer.
fn describe(index: &TreeIndex) -> std::io::Result<(Vec<ContextEntry>, Vec<u8>)> {
    let mut bytes = Vec::new();
    index.write_to(&mut bytes)?;
    let entries = index.entries().iter().map(|entry| {
        let header = header_of(&entry.stat);
        ContextEntry {
            path: entry.stat.path.clone(),
            kind: EntryKind::of(header.mode, &header.link),
            digest: entry.digest,
        }
    });
    Ok((entries.collect(), bytes))
}

/// Primes digests with the header record that content checksums begin with.
struct Headers;

impl RecordHasher for Headers {
    fn start(&self, stat: &Stat) -> Hasher {
        header_of(stat).hasher()
    }
}

fn header_of(stat: &Stat) -> FileHeader {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let mode = FileHeader::mode_from_wire(stat.mode);
    let mut header = FileHeader {
        mode,
        uid: stat.uid,
        gid: stat.gid,
        size: number(stat.size),
        link: Vec::new(),
        device: (number(stat.devmajor), number(stat.devminor)),
        xattrs: stat.xattrs.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone())).collect(),
    };
    if header.is_link() {
        header.link = stat.linkname.clone();
    }
    header
}
