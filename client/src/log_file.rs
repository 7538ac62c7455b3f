//! `--log-file`: a build's plain output in a file, whatever the terminal shows.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use rbuild_api::moby::buildkit::v1::StatusResponse;
use rbuild_frontend::Fault;
use rbuild_progress::render::{Mode, RenderOptions, Renderer, Summary};
use tokio_stream::wrappers::ReceiverStream;

use crate::errors::{CommandError, os_text};

/// Events that the file may be behind the terminal.
const EVENTS: usize = 256;

/// A file that takes the output.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: std::fs::File,
}

impl LogFile {
    /// Makes the file, or empties it.
    pub(crate) fn create(path: &Path) -> Result<Self, CommandError> {
        let file = std::fs::File::create(path).map_err(|error| failed(path, &error))?;
        Ok(Self { path: path.to_owned(), file })
    }
}

fn failed(path: &Path, error: &io::Error) -> CommandError {
    CommandError::new(format!("--log-file {}: {}", path.display(), os_text(error))).fault(Fault::LocalFile)
}

/// Shows events, and writes them to the file if there is one. The outcome of the latter comes second.
pub(crate) async fn show(
    renderer: Renderer,
    log: Option<LogFile>,
    events: tokio::sync::mpsc::Receiver<StatusResponse>,
) -> (Summary, Result<(), CommandError>) {
    let events = ReceiverStream::new(events);
    let Some(LogFile { path, file }) = log else { return (renderer.run(events).await, Ok(())) };
    let first_error = Arc::new(Mutex::new(None));
    let writer = Kept { file, first_error: first_error.clone() };
    let options = RenderOptions { colour: false, summary: true, details: false, details_hint: None };
    let written = Renderer::new(Mode::Plain, Box::new(writer), options);
    let (copy, copied) = tokio::sync::mpsc::channel(EVENTS);
    let events = events.then(move |event| {
        let copy = copy.clone();
        async move {
            // Both are read to their ends: a receiver that is gone belongs to a build that is.
            if copy.send(event.clone()).await.is_err() {
                tracing::debug!("the log's end is gone");
            }
            event
        }
    });
    let (summary, _) = tokio::join!(renderer.run(events), written.run(ReceiverStream::new(copied)));
    let error = first_error.lock().unwrap_or_else(PoisonError::into_inner).take();
    (summary, error.map_or(Ok(()), |error| Err(failed(&path, &error))))
}

/// Keeps why a write failed: a renderer goes on without a word when its reader is gone.
#[derive(Debug)]
struct Kept {
    file: std::fs::File,
    first_error: Arc<Mutex<Option<io::Error>>>,
}

impl Write for Kept {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data).map_err(|error| {
            let kind = error.kind();
            self.first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
