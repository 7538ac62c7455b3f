//! The daemon's end of exports to the client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use rbuild_api::moby::filesync::v1::BytesMessage;
use rbuild_api::moby::filesync::v1::file_send_client::FileSendClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::send::{SendOptions, SenderCall, batches, serve_sender};
use super::{ExportRoot, FileSyncRequest, Form, Packet, TransferCounter};
use crate::{Result, Session, SessionError, metadata, names};

/// Bytes in one message of a raw stream.
const CHUNK: usize = 128 * 1024;
/// Messages that may wait for the network.
const CHUNKS_IN_FLIGHT: usize = 16;
/// A client that takes nothing for so long is taken for stuck.
const STALL: Duration = Duration::from_secs(120);
/// How often the progress of a transfer is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

fn target(map: &mut MetadataMap, index: usize, pairs: &[(String, String)], split: bool) -> Result<()> {
    metadata::append_one(map, names::EXPORTER_ID, &index.to_string())?;
    if split {
        metadata::append_one(map, names::EXPORTER_MULTI_PLATFORM, "true")?;
    }
    for (key, value) in pairs {
        metadata::append_one(map, &format!("{}{key}", names::EXPORTER_MD_PREFIX), value)?;
    }
    Ok(())
}

fn failed(status: tonic::Status) -> SessionError {
    SessionError::call("export to the client", status)
}

impl Session {
    /// Sends directories to the output directory of the client's exporter `index`, and waits until it has written them.
    ///
    /// `roots` with a directory name appear below it. `epoch`: Unix seconds given to every entry. `on_bytes` is told
    /// now and then how much has been sent. Cancel: by drop.
    pub async fn send_tree(
        &self,
        index: usize,
        pairs: Vec<(String, String)>,
        roots: Vec<ExportRoot>,
        epoch: Option<i64>,
        on_bytes: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let counter = TransferCounter::new();
        let options = SendOptions {
            set_mtime_ns: epoch.map(|seconds| seconds.saturating_mul(1_000_000_000)),
            stall: Some(STALL),
            counter: counter.clone(),
            ..SendOptions::default()
        };
        let sending = self.until_closed(self.send_packets(index, pairs, roots, options));
        tokio::pin!(sending);
        let mut ticks = tokio::time::interval(TELL_EVERY);
        let result = loop {
            tokio::select! {
                result = &mut sending => break result,
                _ = ticks.tick() => on_bytes(counter.bytes()),
            }
        };
        on_bytes(counter.bytes());
        result
    }

    async fn send_packets(
        &self,
        index: usize,
        pairs: Vec<(String, String)>,
        roots: Vec<ExportRoot>,
        options: SendOptions,
    ) -> Result<()> {
        self.require(names::FILE_SEND_DIFF_COPY)?;
        let (out, batched) = batches();
        // Errors do not come this way: they are what `serve_sender` returns.
        let flat = |batch: super::send::Batch| {
            futures::stream::iter(batch.map(|batch| batch.packets).unwrap_or_default())
        };
        let mut request = tonic::Request::new(ReceiverStream::new(batched).flat_map(flat));
        let split = roots.iter().any(|root| root.directory.is_some());
        target(request.metadata_mut(), index, &pairs, split)?;
        // The same method carries packets or raw bytes, as both ends know from the kind of export.
        let mut grpc = tonic::client::Grpc::new(self.channel());
        grpc.ready().await.map_err(|err| failed(tonic::Status::unavailable(err.to_string())))?;
        let codec = tonic_prost::ProstCodec::<Packet, Packet>::default();
        let path = http::uri::PathAndQuery::from_static(names::FILE_SEND_DIFF_COPY);
        let call = SenderCall { roots, filter: FileSyncRequest::default(), options, form: Form::Single };
        // A server may answer with its headers only when it has something to say, so list already meanwhile.
        // A server need not answer before it has something to say, and it says nothing before it has seen the list: so
        // its answer is awaited as a part of what comes in.
        let answer = grpc.streaming(request, path, codec);
        let incoming = answer.map_ok(tonic::Response::into_inner).try_flatten_stream();
        tokio::pin!(incoming);
        serve_sender(&mut incoming, out, call).await?;
        // The client ends the stream when all is written.
        while incoming.try_next().await.map_err(failed)?.is_some() {}
        Ok(())
    }

    /// Opens a raw stream (tar, OCI archive) to the client's exporter `index`; `pairs` are told along with it.
    pub async fn send_file(&self, index: usize, pairs: Vec<(String, String)>) -> Result<FileSink> {
        self.require(names::FILE_SEND_DIFF_COPY)?;
        let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        target(request.metadata_mut(), index, &pairs, false)?;
        let (session, complete) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let declared = Declared { channel: self.channel(), complete: complete.clone() };
        let call = tokio::task::spawn(async move {
            let transfer = async {
                let mut client = FileSendClient::new(declared);
                let mut answers = client.diff_copy(request).await.map_err(failed)?.into_inner();
                while answers.message().await.map_err(failed)?.is_some() {}
                Ok(())
            };
            session.until_closed(transfer).await
        });
        Ok(FileSink { sender, complete, call: AbortOnDropHandle::new(call) })
    }
}

/// gRPC whose request must be declared complete: if its messages end before, the stream is reset instead of closed, so
/// that half a file never looks whole.
#[derive(Clone)]
struct Declared {
    channel: Channel,
    complete: Arc<AtomicBool>,
}

impl tower::Service<http::Request<tonic::body::Body>> for Declared {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as tower::Service<http::Request<tonic::body::Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        tower::Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let complete = self.complete.clone();
        let request = request.map(|inner| tonic::body::Body::new(DeclaredBody { inner, complete }));
        tower::Service::call(&mut self.channel, request)
    }
}

struct DeclaredBody {
    inner: tonic::body::Body,
    complete: Arc<AtomicBool>,
}

impl hyper::body::Body for DeclaredBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<hyper::body::Frame<Bytes>, tonic::Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(match frame {
            None if !self.complete.load(Ordering::Acquire) => {
                Some(Err(tonic::Status::cancelled("the export was given up")))
            }
            frame => frame,
        })
    }
}

/// A raw stream into the client's file or standard output. Nothing is complete before [`FileSink::finish`]; dropping it
/// earlier resets the stream, which the client sees as an error.
pub struct FileSink {
    sender: mpsc::Sender<BytesMessage>,
    complete: Arc<AtomicBool>,
    call: AbortOnDropHandle<Result<()>>,
}

impl std::fmt::Debug for FileSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSink").finish_non_exhaustive()
    }
}

impl FileSink {
    /// Sends a chunk of any size.
    ///
    /// Errors: the client's own, if it ended the stream; its code is kept (`AlreadyExists`: it wants no such file).
    pub async fn send(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let message = BytesMessage { data: data.split_to(data.len().min(CHUNK)).into() };
            // The call may end while this waits for room: then its error is told, rather than waited beside.
            tokio::select! {
                biased;
                sent = self.sender.send(message) => if sent.is_err() {
                    return Err(early((&mut self.call).await));
                },
                ended = &mut self.call => return Err(early(ended)),
            }
        }
        Ok(())
    }

    /// Says that all is sent, and waits until the client has it.
    pub async fn finish(self) -> Result<()> {
        let Self { sender, complete, call } = self;
        complete.store(true, Ordering::Release);
        drop(sender);
        call.await.map_err(|err| SessionError::io("export to the client", io::Error::other(err)))?
    }
}

/// Why a call ended before all was sent.
fn early(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> SessionError {
    match ended {
        Ok(Err(err)) => err,
        Ok(Ok(())) => SessionError::Ended { last: String::new() },
        Err(err) => SessionError::io("export to the client", io::Error::other(err)),
    }
}
