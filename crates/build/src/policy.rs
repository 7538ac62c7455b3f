use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rbuild_frontend::{BuildError, ErrorCode, Fault};
use rbuild_llb::{Converted, Definition, Graph, OpKind, PolicyError, SourceOp, SourcePolicy};
use rbuild_oci::Platform;
use rbuild_session::{PolicyDecision, PolicyQuestion, SessionManager, SourceFacts};
use rbuild_worker::ResolvedSource;

use crate::bridge::BuildContext;
use crate::error::{from_op, located};

/// How long a build waits for the session that it names: Solve and Session are opened side by side.
const SESSION_WAIT: Duration = Duration::from_secs(5);
/// Questions about one source, those about its replacements included; more are a circle.
const MAX_QUESTIONS: usize = 20;

/// Applies rules that came with one request, besides those of the build, to a definition.
///
/// Errors: a source is denied, with its place in the user's file.
pub(crate) fn ruled(
    rules: &[SourcePolicy],
    definition: &Definition,
) -> Result<Option<Definition>, BuildError> {
    if rules.is_empty() {
        return Ok(None);
    }
    let graph = Graph::from_definition(definition).map_err(|error| BuildError::invalid(error.to_string()))?;
    let mut converted = Converted::default();
    for vertex in graph.vertices() {
        if let OpKind::Source(source) = &vertex.op.kind {
            let wanted = ruled_source(rules, source);
            let wanted = wanted.map_err(|error| located(error, &graph, &vertex.digest))?;
            if wanted != *source {
                converted.insert(vertex.digest, wanted);
            }
        }
    }
    Ok((!converted.is_empty()).then(|| converted.apply(definition, &graph)))
}

/// As [`ruled`], for one source.
pub(crate) fn ruled_source(rules: &[SourcePolicy], source: &SourceOp) -> Result<SourceOp, BuildError> {
    let mut wanted = source.clone();
    for rules in rules {
        rules.evaluate(&mut wanted).map_err(rule_error)?;
    }
    Ok(wanted)
}

/// The client's policy on what a build may use: rules that came with the request, and a session that is asked. Decides
/// on every source of every definition, and on every name that is resolved, before anything else happens with it; what
/// another build has fetched is no way around it.
#[derive(Debug)]
pub(crate) struct Policy {
    rules: Option<SourcePolicy>,
    sessions: Arc<SessionManager>,
    /// Empty: none.
    session: String,
    /// What it has decided: the source that is used.
    decided: Mutex<HashMap<String, SourceOp>>,
}

impl Policy {
    /// Rules, and the policy behind a session (an empty id is none).
    pub(crate) fn of(
        sessions: &Arc<SessionManager>,
        rules: Option<SourcePolicy>,
        session: &str,
    ) -> Option<Self> {
        if rules.is_none() && session.is_empty() {
            return None;
        }
        let (sessions, session) = (sessions.clone(), session.to_owned());
        Some(Self { rules, sessions, session, decided: Mutex::default() })
    }

    /// What sources of a graph are replaced by. Errors: a source is denied, with its place in the user's file.
    pub(crate) async fn convert_graph(
        &self,
        context: &BuildContext,
        graph: &Graph,
    ) -> Result<Converted, BuildError> {
        let mut converted = Converted::default();
        for vertex in graph.vertices() {
            if let OpKind::Source(source) = &vertex.op.kind {
                let decided = self.decide(context, source, vertex.op.platform.as_ref()).await;
                let wanted = decided.map_err(|error| located(error, graph, &vertex.digest))?;
                if wanted != *source {
                    converted.insert(vertex.digest, wanted);
                }
            }
        }
        Ok(converted)
    }

    /// The source to use in place of `source`: mostly itself.
    ///
    /// Errors: it is denied, or the policy does not come to an end.
    pub(crate) async fn decide(
        &self,
        context: &BuildContext,
        source: &SourceOp,
        platform: Option<&Platform>,
    ) -> Result<SourceOp, BuildError> {
        let key = format!("{source:?} {platform:?}");
        if let Some(decided) = self.decided.lock().get(&key) {
            return Ok(decided.clone());
        }
        let mut wanted = source.clone();
        if let Some(rules) = &self.rules {
            rules.evaluate(&mut wanted).map_err(rule_error)?;
        }
        if !self.session.is_empty() {
            wanted = self.ask(context, wanted, platform).await?;
        }
        self.decided.lock().insert(key, wanted.clone());
        Ok(wanted)
    }

    /// Asks the session until it has decided.
    async fn ask(
        &self,
        context: &BuildContext,
        mut source: SourceOp,
        platform: Option<&Platform>,
    ) -> Result<SourceOp, BuildError> {
        let failed = |error: rbuild_session::SessionError| {
            BuildError::new(ErrorCode::Unavailable, format!("source policy: {error}"))
        };
        let session = self.sessions.get(&self.session, Some(SESSION_WAIT)).await.map_err(failed)?;
        let mut facts = SourceFacts::default();
        for _ in 0..MAX_QUESTIONS {
            let question = PolicyQuestion {
                identifier: &source.identifier,
                attrs: &source.attrs,
                platform: platform.map(|p| (p.os.as_str(), p.architecture.as_str(), p.variant.as_str())),
                facts: &facts,
            };
            match session.check_policy(question).await.map_err(failed)? {
                PolicyDecision::Allow => return Ok(source),
                PolicyDecision::Deny(reasons) => return Err(denied(&source, &reasons)),
                PolicyDecision::Convert { identifier, attrs } => {
                    // The replacement is a source like any other.
                    source = SourceOp { identifier, attrs };
                    facts = SourceFacts::default();
                }
                PolicyDecision::AskedForMetadata { attestations: true } => {
                    return Err(BuildError::unimplemented(format!(
                        "the client's policy asks who signed source `{}`, which rbuildd does not look up",
                        shown(&source)
                    ))
                    .fault(Fault::Policy));
                }
                PolicyDecision::AskedForMetadata { .. } => {
                    facts = self.facts(context, &source, platform).await?;
                }
            }
        }
        let text = format!(
            "the client's policy has not decided on source `{}` after {MAX_QUESTIONS} questions",
            shown(&source)
        );
        Err(BuildError::new(ErrorCode::PermissionDenied, text).fault(Fault::Policy))
    }

    async fn facts(
        &self,
        context: &BuildContext,
        source: &SourceOp,
        platform: Option<&Platform>,
    ) -> Result<SourceFacts, BuildError> {
        let reporter = context.step("checking source policy");
        let resolved =
            context.worker.resolve_source(&context.scope, &reporter, source, platform.cloned()).await;
        let ResolvedSource { image, git, http } = resolved.map_err(|error| from_op(&error))?;
        Ok(SourceFacts {
            image: image.map(|image| (image.digest.to_string(), image.config)),
            git: git.map(|git| (git.object().to_owned(), git.commit, git.reference)),
            http: http.map(|(digest, name, modified)| (digest.to_string(), name, modified)),
        })
    }
}

fn rule_error(error: PolicyError) -> BuildError {
    let code = match error {
        PolicyError::Denied { .. } | PolicyError::Circle { .. } => ErrorCode::PermissionDenied,
        PolicyError::Rule { .. } | PolicyError::TooManyRules { .. } => ErrorCode::InvalidArgument,
    };
    BuildError::new(code, error.to_string()).fault(Fault::Policy)
}

fn denied(source: &SourceOp, reasons: &[String]) -> BuildError {
    let mut text = format!("source `{}` is not allowed by the client's policy", shown(source));
    if !reasons.is_empty() {
        text += &format!(": {}", reasons.join("; "));
    }
    BuildError::new(ErrorCode::PermissionDenied, text).fault(Fault::Policy)
}

/// Queries and credentials of addresses are nobody's business.
fn shown(source: &SourceOp) -> String {
    rbuild_llb::shown_identifier(&source.identifier)
}
