//! A web server of one closure.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Status line and headers, body, and how much of it is sent.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) cut_at: Option<usize>,
    /// After that much the connection stays open and silent; with status 0 there is not even a head.
    pub(crate) stalls: bool,
}

pub(crate) fn page(body: &str, headers: &[(&'static str, &str)]) -> Page {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Page { status: 200, headers, body: body.as_bytes().to_vec(), cut_at: None, stalls: false }
}

pub(crate) fn status(status: u16) -> Page {
    Page { status, ..page("", &[]) }
}

pub(crate) struct Web {
    pub(crate) url: String,
    /// Heads of the requests.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    /// `script` gets the head of each request in lower case and how many there were before it.
    pub(crate) async fn start(script: impl Fn(&str, usize) -> Page + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; 8192];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&bytes[..read]).to_lowercase();
                let before = {
                    let mut log = log.lock();
                    log.push(head.clone());
                    log.len() - 1
                };
                let page = script(&head, before);
                let mut text = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", page.status);
                text += &format!("content-length: {}\r\n", page.body.len());
                for (name, value) in page.headers {
                    text += &format!("{name}: {value}\r\n");
                }
                let mut out = (text + "\r\n").into_bytes();
                out.extend_from_slice(&page.body[..page.cut_at.unwrap_or(page.body.len())]);
                if page.status == 0 {
                    out.clear();
                }
                // The client may have gone; then there is nobody to answer.
                drop(stream.write_all(&out).await);
                if page.stalls {
                    // Until the client loses patience.
                    drop(stream.read(&mut bytes).await);
                }
                drop(stream.shutdown().await);
            }
        });
        Self { url, asked, task: task.abort_handle() }
    }
}
