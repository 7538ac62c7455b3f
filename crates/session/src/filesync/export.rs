//! The daemon's end of exports to the client.

use std::collections::BTreeMap;
use std::io;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use rbuild_api::fsutil::types::Packet;
use rbuild_api::moby::filesync::v1::BytesMessage;
use rbuild_api::moby::filesync::v1::file_send_client::FileSendClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataMap;

use super::send::{SendOptions, SenderCall, batches, serve_sender};
use super::{FileSyncRequest, Tree};
use crate::{Result, Session, SessionError, metadata, names};

/// Bytes in one message of a raw stream.
const CHUNK: usize = 128 * 1024;
/// Messages that may wait for the network.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Which exporter of the request, and what it has to tell the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportTarget {
    /// Index in the request's list of exporters; `None` for clients that know only one.
    pub exporter: Option<usize>,
    /// The exporter's response.
    pub metadata: BTreeMap<String, String>,
    /// The tree has a directory per platform.
    pub multi_platform: bool,
}

impl ExportTarget {
    /// The exporter at this index, with nothing to tell.
    pub fn new(exporter: usize) -> Self {
        Self { exporter: Some(exporter), ..Self::default() }
    }

    fn to_metadata(&self, map: &mut MetadataMap) -> Result<()> {
        if let Some(index) = self.exporter {
            metadata::append_one(map, names::EXPORTER_ID, &index.to_string())?;
        }
        if self.multi_platform {
            metadata::append_one(map, names::EXPORTER_MULTI_PLATFORM, "true")?;
        }
        for (key, value) in &self.metadata {
            metadata::append_one(map, &format!("{}{key}", names::EXPORTER_MD_PREFIX), value)?;
        }
        Ok(())
    }
}

/// Sends directories to the client's output directory and waits until it has written them. Cancel: by drop.
pub async fn send_tree(
    session: &Session,
    target: &ExportTarget,
    trees: Vec<Tree>,
    options: SendOptions,
) -> Result<()> {
    session.require(names::FILE_SEND_DIFF_COPY)?;
    let (out, batched) = batches();
    let packets = ReceiverStream::new(batched).flat_map(|batch| futures::stream::iter(batch.unwrap_or_default()));
    let mut request = tonic::Request::new(packets);
    target.to_metadata(request.metadata_mut())?;
    session
        .until_closed(async {
            // The same method carries packets or raw bytes, as both ends know from the kind of export.
            let mut grpc = tonic::client::Grpc::new(session.channel());
            let failed = |status| SessionError::call("export to the client", status);
            let not_ready = |err: tonic::transport::Error| failed(tonic::Status::unavailable(err.to_string()));
            grpc.ready().await.map_err(not_ready)?;
            let codec = tonic_prost::ProstCodec::<Packet, Packet>::default();
            let path = http::uri::PathAndQuery::from_static(names::FILE_SEND_DIFF_COPY);
            let mut incoming = grpc.streaming(request, path, codec).await.map_err(failed)?.into_inner();
            let call = SenderCall { trees, filter: FileSyncRequest::default(), options };
            serve_sender(&mut incoming, out, call).await?;
            // The client ends the stream when all is written.
            while incoming.message().await.map_err(failed)?.is_some() {}
            Ok(())
        })
        .await
}

/// A raw stream (tar, OCI archive) into the client's file or standard output.
///
/// Written from async code with [`ExportWriter::write`], or from a blocking thread through [`io::Write`]. Nothing is
/// complete before [`ExportWriter::finish`]; dropping it earlier breaks the stream off, which the client sees as an
/// error.
pub struct ExportWriter {
    sender: mpsc::Sender<BytesMessage>,
    pending: BytesMut,
    call: AbortOnDropHandle<Result<()>>,
}

impl std::fmt::Debug for ExportWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportWriter").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl ExportWriter {
    /// Opens the stream. Errors show when writing or finishing. Call inside a runtime.
    pub fn open(session: &Session, target: &ExportTarget) -> Result<Self> {
        session.require(names::FILE_SEND_DIFF_COPY)?;
        let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        target.to_metadata(request.metadata_mut())?;
        let session = session.clone();
        let call = tokio::task::spawn(async move {
            let transfer = async {
                let failed = |status| SessionError::call("export to the client", status);
                let mut client = FileSendClient::new(session.channel());
                let mut answers = client.diff_copy(request).await.map_err(failed)?.into_inner();
                while answers.message().await.map_err(failed)?.is_some() {}
                Ok(())
            };
            session.until_closed(transfer).await
        });
        Ok(Self { sender, pending: BytesMut::new(), call: AbortOnDropHandle::new(call) })
    }

    /// Writes a chunk of any size.
    ///
    /// Errors: the client's own, if it ended the stream.
    pub async fn write(&mut self, mut data: Bytes) -> Result<()> {
        if !self.pending.is_empty() {
            let held = self.pending.split().freeze();
            self.send(held).await?;
        }
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(CHUNK));
            self.send(piece).await?;
        }
        Ok(())
    }

    async fn send(&mut self, data: Bytes) -> Result<()> {
        if self.sender.send(BytesMessage { data: data.into() }).await.is_ok() {
            return Ok(());
        }
        match (&mut self.call).await {
            Ok(Err(err)) => Err(err),
            Ok(Ok(())) => Err(SessionError::Ended { last: String::new() }),
            Err(err) => Err(SessionError::io("export to the client", io::Error::other(err))),
        }
    }

    /// Says that all is written, and waits until the client has it.
    pub async fn finish(mut self) -> Result<()> {
        self.write(Bytes::new()).await?;
        let Self { sender, call, .. } = self;
        drop(sender);
        call.await.map_err(|err| SessionError::io("export to the client", io::Error::other(err)))?
    }
}

impl io::Write for ExportWriter {
    /// Blocking: for use off the runtime.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(data);
        while self.pending.len() >= CHUNK {
            let piece = self.pending.split_to(CHUNK).freeze();
            let message = BytesMessage { data: piece.into() };
            let ended = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client ended the export");
            self.sender.blocking_send(message).map_err(ended)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
