use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rbuild_frontend::{BuildError, ErrorCode};
use rbuild_llb::{Graph, OpKind, SourceOp};
use rbuild_oci::Platform;
use rbuild_session::{PolicyDecision, PolicyQuestion, SessionManager};

/// How long a build waits for the session that it names: Solve and Session are opened side by side.
const SESSION_WAIT: Duration = Duration::from_secs(5);

/// The client's policy on what a build may use. Asked about every source of every definition, and about every name that
/// is resolved, before anything else happens with it; what another build has fetched is no way around it.
#[derive(Debug)]
pub(crate) struct SourcePolicy {
    sessions: Arc<SessionManager>,
    session: String,
    /// What it has allowed.
    allowed: Mutex<HashSet<String>>,
}

impl SourcePolicy {
    /// The policy behind a session; an empty id is none.
    pub(crate) fn of(sessions: &Arc<SessionManager>, session: &str) -> Option<Self> {
        let of = |session: &str| Self {
            sessions: sessions.clone(),
            session: session.to_owned(),
            allowed: Mutex::default(),
        };
        (!session.is_empty()).then(|| of(session))
    }

    /// Errors: a source is denied, or the policy wants what this daemon cannot do.
    pub(crate) async fn check_graph(&self, graph: &Graph) -> Result<(), BuildError> {
        for vertex in graph.vertices() {
            if let OpKind::Source(source) = &vertex.op.kind {
                self.check(source, vertex.op.platform.as_ref()).await?;
            }
        }
        Ok(())
    }

    /// As [`SourcePolicy::check_graph`] for one source.
    pub(crate) async fn check(
        &self,
        source: &SourceOp,
        platform: Option<&Platform>,
    ) -> Result<(), BuildError> {
        let key = format!("{source:?} {platform:?}");
        if self.allowed.lock().contains(&key) {
            return Ok(());
        }
        let question = PolicyQuestion {
            identifier: &source.identifier,
            attrs: &source.attrs,
            platform: platform.map(|p| (p.os.as_str(), p.architecture.as_str(), p.variant.as_str())),
        };
        let failed = |error: rbuild_session::SessionError| {
            BuildError::new(ErrorCode::Unavailable, format!("source policy: {error}"))
        };
        let session = self.sessions.get(&self.session, Some(SESSION_WAIT)).await.map_err(failed)?;
        // Queries and credentials of addresses are nobody's business.
        let shown = source.identifier.split('?').next().unwrap_or_default();
        let shown = match shown.split_once("://") {
            Some((scheme, rest)) => format!(
                "{scheme}://{}",
                rest.rsplit_once('@').filter(|_| scheme.starts_with("http")).map_or(rest, |(_, host)| host)
            ),
            None => shown.to_owned(),
        };
        match session.check_policy(question).await.map_err(failed)? {
            PolicyDecision::Allow => {
                self.allowed.lock().insert(key);
                Ok(())
            }
            PolicyDecision::Deny(reasons) => {
                let mut text = format!("source `{shown}` is not allowed by the client's policy");
                if !reasons.is_empty() {
                    text += &format!(": {}", reasons.join("; "));
                }
                Err(BuildError::new(ErrorCode::PermissionDenied, text))
            }
            PolicyDecision::Convert => Err(BuildError::unimplemented(format!(
                "the client's policy replaces source `{shown}`, which is not supported by rbuildd yet"
            ))),
            PolicyDecision::AskedForMetadata => Err(BuildError::unimplemented(format!(
                "the client's policy asks for metadata of source `{shown}`, which is not supported by rbuildd yet"
            ))),
        }
    }
}
