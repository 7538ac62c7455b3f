//! Solve and Status.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use rbuild_api::moby::buildkit::v1 as wire;
use rbuild_build::{BuildRequest, ExporterSpec, TraceContext, What};
use rbuild_digest::is_safe_id;
use rbuild_frontend::{BuildError, ErrorCode, Fault};
use rbuild_gateway::ClientFrontend;
use rbuild_llb::{Definition, SourcePolicy};
use tokio_util::sync::CancellationToken;
use tonic::Response;

use super::{ControlService, Reply, ReplyStream, refuse};

/// More exporters in one build than anyone has asked for.
const MAX_EXPORTERS: usize = 64;

/// Builds. The build runs in a task of the builder's; when the client goes away, this future is dropped and
/// the guard cancels that task, which still cleans up after itself.
pub(super) async fn solve(
    control: &ControlService,
    wire: wire::SolveRequest,
    trace: Option<TraceContext>,
) -> Reply<wire::SolveResponse> {
    let mut request = build_request(control, wire).map_err(|error| refuse(&error))?;
    request.trace = trace;
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let outcome = control.builder.build(request, cancel).await.map_err(|error| refuse(&error))?;
    Ok(Response::new(wire::SolveResponse { exporter_response: outcome.exporter_response }))
}

/// Replays a build's events from its start, then follows until it is over.
pub(super) async fn status(
    control: &ControlService,
    request: wire::StatusRequest,
) -> Reply<ReplyStream<wire::StatusResponse>> {
    let Some(events) = control.builder.status(&request.r#ref).await else {
        return Err(super::history::no_such_build(&request.r#ref));
    };
    Ok(Response::new(Box::pin(events.map(Ok))))
}

fn build_request(control: &ControlService, wire: wire::SolveRequest) -> Result<BuildRequest, BuildError> {
    if !is_safe_id(&wire.r#ref) {
        return Err(BuildError::invalid(format!(
            "build id {:?}: expected 1 to 128 letters, digits, `_`, `.` or `-`",
            wire.r#ref
        )));
    }
    if wire.proxy_network {
        return Err(BuildError::unimplemented("the proxy network is not supported by rbuildd"));
    }
    let policy = wire.source_policy.as_ref().map(SourcePolicy::from_wire).transpose();
    let policy = policy.map_err(|error| BuildError::invalid(error.to_string()).fault(Fault::Policy))?;
    let inputs = (wire.frontend_inputs.into_iter())
        .map(|(name, def)| Ok((name, definition(def)?)))
        .collect::<Result<BTreeMap<_, _>, BuildError>>()?;
    // An empty definition is scratch; none at all means that the client drives the build.
    let what = match (wire.frontend.is_empty(), wire.definition) {
        (false, Some(def)) if !def.def.is_empty() => {
            return Err(BuildError::invalid("a build has either a definition or a frontend, not both"));
        }
        (false, _) => What::Frontend { name: wire.frontend, options: wire.frontend_attrs, inputs },
        (true, Some(def)) => What::Definition(definition(def)?),
        (true, None) => What::Client {
            frontend: std::sync::Arc::new(ClientFrontend::new(control.forwarded.clone(), wire.r#ref.clone())),
            options: wire.frontend_attrs,
            inputs,
        },
    };
    let mut exporters = wire.exporters;
    if exporters.is_empty() && !wire.exporter_deprecated.is_empty() {
        exporters
            .push(wire::Exporter { r#type: wire.exporter_deprecated, attrs: wire.exporter_attrs_deprecated });
    }
    if exporters.len() > MAX_EXPORTERS {
        let text = format!("{} exporters in one build: at most {MAX_EXPORTERS}", exporters.len());
        return Err(BuildError::new(ErrorCode::InvalidArgument, text));
    }
    let cache = wire.cache.unwrap_or_default();
    Ok(BuildRequest {
        id: wire.r#ref,
        session: wire.session,
        policy,
        policy_session: wire.source_policy_session,
        internal: wire.internal,
        trace: None,
        what,
        exporters: exporters
            .into_iter()
            .map(|exporter| ExporterSpec { kind: exporter.r#type, attrs: exporter.attrs })
            .collect(),
        entitlements: wire.entitlements,
        cache_exports: cache.exports.into_iter().map(|entry| (entry.r#type, entry.attrs)).collect(),
        cache_imports: cache.imports.into_iter().map(|entry| (entry.r#type, entry.attrs)).collect(),
    })
}

fn definition(wire: rbuild_api::pb::Definition) -> Result<Definition, BuildError> {
    Definition::from_wire(wire).map_err(|error| BuildError::invalid(format!("invalid definition: {error}")))
}
