//! From a thread that writes an archive to the client that receives it.

use std::io::{self, Write};

use bytes::Bytes;
use futures::future::BoxFuture;
use rbuild_progress::StatusHandle;
use rbuild_session::Session;
use tokio::sync::mpsc;

use crate::{ExportError, Result};

/// Bytes handed over at once: below the size of a message that every peer accepts.
const CHUNK: usize = 1 << 20;
/// Chunks between the two sides: enough that neither waits for the other's wake-up.
const CHUNKS: usize = 4;

/// Collects what is written and sends it on in chunks; blocks while the other side is busy.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    buffer: Vec<u8>,
    sender: mpsc::Sender<Bytes>,
}

impl ChunkWriter {
    fn send(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(full.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Runs `produce` on a blocking thread and sends what it writes to the client as one file.
pub(crate) async fn send_file(
    session: &Session,
    index: usize,
    metadata: Vec<(String, String)>,
    status: &StatusHandle,
    produce: impl FnOnce(&mut ChunkWriter) -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut sink = session.send_file(index, metadata).await?;
    let (sender, mut chunks) = mpsc::channel(CHUNKS);
    let producing = tokio::task::spawn_blocking(move || {
        let mut writer = ChunkWriter { buffer: Vec::with_capacity(CHUNK), sender };
        produce(&mut writer)?;
        writer.flush().map_err(ExportError::io("sending"))
    });
    let sending: BoxFuture<'_, Result<()>> = Box::pin(async {
        let mut sent = 0;
        while let Some(chunk) = chunks.recv().await {
            sent += chunk.len() as u64;
            sink.send(chunk).await?;
            status.set(sent, 0);
        }
        Ok(())
    });
    // If sending fails the channel closes, which ends the producer with a broken pipe: the cause is here.
    let sent = sending.await;
    drop(chunks);
    let produced = producing.await.map_err(|error| ExportError::Internal(error.to_string()))?;
    sent?;
    produced?;
    // Only a whole file is confirmed: a producer that failed leaves the stream without its end.
    sink.finish().await?;
    Ok(())
}
