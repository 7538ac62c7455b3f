use std::io::{self, Write};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use rbuild_digest::{Digest, Hasher};
use rbuild_progress::StatusHandle;
use rbuild_store::{MutableRef, NewMutable, RecordType, Ref, Store};
use tokio::sync::mpsc;

use crate::SourceError;

/// Pieces between the network and the disk; each is at most a few hundred kilobytes.
const PIECES: usize = 16;

/// How the file is to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileForm {
    pub(crate) name: String,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_s: i64,
}

/// What goes to the writer; without `End` it throws away what it has.
enum Piece {
    Data(Bytes),
    End,
}

/// The bytes of a file on their way.
pub(crate) struct Body<S> {
    /// Its pieces, or why they stop.
    pub(crate) pieces: S,
    /// Its size; 0 if that is not known.
    pub(crate) total: u64,
}

/// Writes `body` as the only file of a new ref. `url` is fit to be shown.
///
/// Cancel: the half-written ref is thrown away.
pub(crate) async fn save(
    store: &Store,
    body: Body<impl Stream<Item = Result<Bytes, SourceError>>>,
    form: &FileForm,
    url: &str,
    status: &StatusHandle,
) -> Result<(Ref, Digest), SourceError> {
    let options = NewMutable { description: format!("http url {url}"), record_type: RecordType::Regular };
    let target = store.new_mutable(None, options).await?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let writer = write(target, receiver, form.clone(), url);
    let reader = async {
        let result = read(body, sender, status).await;
        result.map(|()| status.done())
    };
    let (written, read) = tokio::join!(writer, reader);
    // The server's failure is the cause, the writer's "no end" its consequence.
    read?;
    let (target, digest) = written?;
    Ok((target.commit().await?, digest))
}

async fn read(
    body: Body<impl Stream<Item = Result<Bytes, SourceError>>>,
    sender: mpsc::Sender<Piece>,
    status: &StatusHandle,
) -> Result<(), SourceError> {
    let mut pieces = std::pin::pin!(body.pieces);
    let mut current = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        current += piece.len() as u64;
        status.set(current, body.total);
        // A writer that is gone tells why itself.
        if sender.send(Piece::Data(piece)).await.is_err() {
            return Ok(());
        }
    }
    match sender.send(Piece::End).await {
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn write(
    target: MutableRef,
    mut receiver: mpsc::Receiver<Piece>,
    form: FileForm,
    url: &str,
) -> Result<(MutableRef, Digest), SourceError> {
    let tree = target.tree().await?;
    let work = tokio::task::spawn_blocking(move || -> io::Result<(MutableRef, Digest)> {
        let root = tree.root();
        let mut file = root.create_file(&form.name, 0o600, true).map_err(io::Error::from)?;
        let mut hasher = Hasher::new();
        loop {
            match receiver.blocking_recv() {
                Some(Piece::Data(bytes)) => {
                    hasher.update(&bytes);
                    file.write_all(&bytes)?;
                }
                Some(Piece::End) => break,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer broke off")),
            }
        }
        drop(file);
        root.chown(&form.name, form.uid, form.gid).map_err(io::Error::from)?;
        root.chmod(&form.name, form.mode).map_err(io::Error::from)?;
        let mtime_ns = form.mtime_s.saturating_mul(1_000_000_000);
        root.utimes(&form.name, mtime_ns).map_err(io::Error::from)?;
        drop(tree);
        Ok((target, hasher.finish()))
    });
    let written = work.await.map_err(io::Error::other).and_then(|result| result);
    written.map_err(|error| SourceError::io(format!("write the file of {url}"), error))
}
