//! Session: the tunnel through which the daemon calls its client.

use rbuild_api::moby::buildkit::v1::BytesMessage;
use rbuild_frontend::BuildError;
use rbuild_session::Registration;
use tonic::{Request, Response, Streaming};

use super::{ControlService, Reply, ReplyStream, refuse};

/// Opens a session; it lives as long as this call's streams do.
pub(super) async fn session(
    control: &ControlService,
    request: Request<Streaming<BytesMessage>>,
) -> Reply<ReplyStream<BytesMessage>> {
    let invalid = |error: rbuild_session::SessionError| refuse(&BuildError::invalid(error.to_string()));
    let registration = Registration::from_metadata(request.metadata()).map_err(invalid)?;
    let outbound = control.builder.sessions().accept(registration, request.into_inner()).map_err(invalid)?;
    Ok(Response::new(Box::pin(outbound)))
}
