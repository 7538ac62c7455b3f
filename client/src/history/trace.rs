use rbuild_api::containerd::services::content::v1::ReadContentRequest;
use rbuild_api::containerd::services::content::v1::content_client::ContentClient;
use rbuild_api::moby::buildkit::v1::{BuildHistoryRequest, UpdateBuildHistoryRequest};
use tonic::transport::Channel;

use super::{Control, records};
use crate::errors::CommandError;
use crate::{MAX_MESSAGE, ui};

/// Prints the trace of a build as the daemon keeps it. It is written a moment after the build, or now.
pub(super) async fn print(channel: Channel, control: &mut Control, id: &str) -> Result<(), CommandError> {
    let now = UpdateBuildHistoryRequest { r#ref: id.to_owned(), finalize: true, ..Default::default() };
    control.update_build_history(now).await?;
    let request = BuildHistoryRequest { r#ref: id.to_owned(), ..Default::default() };
    let trace = records(control, request).await?.into_iter().find_map(|record| record.trace);
    let trace = trace.ok_or_else(|| CommandError::new(format!("the daemon has no trace of build `{id}`")))?;
    let mut content = ContentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let request = ReadContentRequest { digest: trace.digest, ..Default::default() };
    let mut pieces = content.read(request).await?.into_inner();
    while let Some(piece) = pieces.message().await? {
        ui::print_raw(&piece.data);
    }
    Ok(())
}
