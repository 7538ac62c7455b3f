//! The content service: what the build history keeps, by digest. Nothing else of the store can be read here, and
//! nothing written: images leave through exporters.

use std::path::PathBuf;

use rbuild_api::containerd::services::content::v1 as wire;
use rbuild_api::containerd::services::content::v1::content_server::Content;
use rbuild_digest::Digest;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{ControlService, Reply, ReplyStream};

/// Bytes in one message. Peers accept 4 MiB by default; larger pieces are no faster.
const CHUNK: u64 = 256 << 10;

fn read_only<T>(call: &str) -> Reply<T> {
    Err(Status::unimplemented(format!("content {call}: the content of rbuildd can only be read")))
}

impl ControlService {
    fn kept(&self, digest: &str) -> Result<(PathBuf, u64), Status> {
        let parsed = Digest::parse(digest).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.builder
            .history()
            .blob(&parsed)
            .ok_or_else(|| Status::not_found(format!("content {digest}: not found")))
    }
}

fn size_on_wire(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Content for ControlService {
    async fn info(&self, request: Request<wire::InfoRequest>) -> Reply<wire::InfoResponse> {
        let digest = request.into_inner().digest;
        let (_, size) = self.kept(&digest)?;
        let info = wire::Info { digest, size: size_on_wire(size), ..Default::default() };
        Ok(Response::new(wire::InfoResponse { info: Some(info) }))
    }

    type ReadStream = ReplyStream<wire::ReadContentResponse>;

    async fn read(&self, request: Request<wire::ReadContentRequest>) -> Reply<Self::ReadStream> {
        let request = request.into_inner();
        let (path, size) = self.kept(&request.digest)?;
        let (Ok(offset), Ok(length)) = (u64::try_from(request.offset), u64::try_from(request.size)) else {
            return Err(Status::invalid_argument("content read: offset and size cannot be negative"));
        };
        if offset > size {
            let text = format!("content read: offset {offset} is beyond the size {size}");
            return Err(Status::out_of_range(text));
        }
        let wanted = if length == 0 { size - offset } else { length.min(size - offset) };
        let failed = move |error: std::io::Error| Status::unknown(format!("content read: {error}"));
        let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
        file.seek(std::io::SeekFrom::Start(offset)).await.map_err(failed)?;
        let pieces =
            futures::stream::try_unfold((file, offset, wanted), move |(mut file, offset, left)| async move {
                if left == 0 {
                    return Ok(None);
                }
                let mut data = Vec::new();
                let count =
                    (&mut file).take(left.min(CHUNK)).read_to_end(&mut data).await.map_err(failed)? as u64;
                if count == 0 {
                    return Err(Status::data_loss("content read: the file is shorter than its record says"));
                }
                let piece = wire::ReadContentResponse { offset: size_on_wire(offset), data };
                Ok(Some((piece, (file, offset + count, left - count))))
            });
        Ok(Response::new(Box::pin(pieces)))
    }

    type ListStream = ReplyStream<wire::ListContentResponse>;

    async fn list(&self, _request: Request<wire::ListContentRequest>) -> Reply<Self::ListStream> {
        read_only("list")
    }

    async fn update(&self, _request: Request<wire::UpdateRequest>) -> Reply<wire::UpdateResponse> {
        read_only("update")
    }

    async fn delete(&self, _request: Request<wire::DeleteContentRequest>) -> Reply<()> {
        read_only("delete")
    }

    async fn status(&self, _request: Request<wire::StatusRequest>) -> Reply<wire::StatusResponse> {
        read_only("status")
    }

    async fn list_statuses(
        &self,
        _request: Request<wire::ListStatusesRequest>,
    ) -> Reply<wire::ListStatusesResponse> {
        read_only("list statuses")
    }

    type WriteStream = ReplyStream<wire::WriteContentResponse>;

    async fn write(
        &self,
        _request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Reply<Self::WriteStream> {
        read_only("write")
    }

    async fn abort(&self, _request: Request<wire::AbortRequest>) -> Reply<()> {
        read_only("abort")
    }
}
