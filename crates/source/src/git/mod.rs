//! `git://`: a commit of a repository, as files.
//!
//! The system's `git` does the work, shut in: no configuration but ours, no hooks, no filters, no credential helpers,
//! no transports but http, https, ssh and git ([`run`]). Each repository has a bare one in the store that objects are
//! fetched into, one user at a time. Secrets come from the session, go to the host they are for and reach git by its
//! environment ([`auth`]). Submodules are sources of their own ([`checkout`]), never left to git.
//!
//! What a server says is not believed: refs are checked as those of users, and the commit that was resolved is the
//! commit that is checked out.

mod auth;
mod checkout;
mod question;
mod refs;
mod remote;
mod repo;
mod run;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use rbuild_session::SessionManager;
use rbuild_store::{Ref, RefId, Store};

use crate::{GitPin, Pin, PinDetail, Source, SourceError, SourceRequest};
use auth::Access;
use question::Question;

/// Space of the store's small values where checkouts are kept by what they are of.
const SPACE: &str = "git";

/// `git://`: repositories.
#[derive(Debug)]
pub struct GitSource {
    store: Store,
    sessions: Arc<SessionManager>,
    max_bytes: u64,
}

impl GitSource {
    /// Repositories and checkouts are kept in `store`; credentials are those of `sessions`. What is fetched for a
    /// commit, and the files of it, may each have `max_bytes`.
    pub fn new(store: Store, sessions: Arc<SessionManager>, max_bytes: u64) -> Self {
        Self { store, sessions, max_bytes }
    }

    async fn pin(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        let question = Question::parse(request)?;
        let found = match question.known_commit() {
            Some(commit) => refs::Found { commit, object: None, reference: question.git_ref.clone() },
            None => {
                let (store, sessions, remote) = (&self.store, &self.sessions, &question.remote);
                let access = Access::open(store, sessions, request, &question, remote, self.max_bytes);
                refs::resolve(&access.await?, request, &question).await?
            }
        };
        question.check(&found)?;
        let pin = GitPin { commit: found.commit, reference: found.reference, tag: found.object };
        Ok(Pin { key: question.key(&pin), aliases: Vec::new(), volatile: false, detail: PinDetail::Git(pin) })
    }

    /// The checkout under a row's key, if it is still here.
    fn known(&self, key: &[u8]) -> Result<Option<Ref>, SourceError> {
        let Some(row) = self.store.kv_get(SPACE, key)? else { return Ok(None) };
        let Some(id) = std::str::from_utf8(&row).ok().and_then(RefId::parse) else { return Ok(None) };
        Ok(self.store.get(&id)?.filter(Ref::is_loadable))
    }
}

#[async_trait]
impl Source for GitSource {
    fn schemes(&self) -> &'static [&'static str] {
        &["git"]
    }

    async fn resolve(&self, request: &SourceRequest) -> Result<Pin, SourceError> {
        let key = format!("git {} {:?}", request.op.identifier, request.op.attrs);
        request.memo.get_or_try(&key, self.pin(request)).await
    }

    async fn fetch(&self, request: &SourceRequest, pin: &Pin) -> Result<Ref, SourceError> {
        let question = Question::parse(request)?;
        let PinDetail::Git(git) = &pin.detail else {
            return Err(question.remote.invalid("is not a commit"));
        };
        let row = question.checkout_key(&pin.key);
        if let Some(found) = self.known(row.as_bytes())? {
            return Ok(found);
        }
        let work = checkout::Work {
            store: &self.store,
            sessions: &self.sessions,
            request,
            question: &question,
            max_bytes: self.max_bytes,
            bytes: AtomicU64::new(0),
        };
        let made = work.checkout(git).await?;
        self.store.kv_put(SPACE, row.as_bytes(), made.id().to_string().as_bytes()).await?;
        Ok(made)
    }
}
