//! A server that does what a test tells it: one closure answers each request.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_oci::ImageRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A request's head.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What to do with it.
pub(crate) enum Answer {
    /// Status, headers, body.
    Reply(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The same, but the connection ends after so many bytes of the body.
    Cut(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// The same, but nothing more is sent, and the connection stays.
    Stall(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// The connection ends without an answer.
    HangUp,
    /// The body of the request is read up to so many bytes, then the connection ends.
    DropBody(usize),
}

pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Answer {
    Answer::Reply(200, vec![], body.into())
}

pub(crate) fn status(code: u16) -> Answer {
    Answer::Reply(code, vec![], vec![])
}

pub(crate) struct Hostile {
    pub(crate) host: String,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    task: AbortHandle,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Script = Arc<dyn Fn(&Asked, usize) -> Answer + Send + Sync>;

impl Hostile {
    /// `script` gets each request and how many there were before it.
    pub(crate) async fn start(script: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, script): (_, Script) = (asked.clone(), Arc::new(script));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, log.clone(), script.clone()));
            }
        });
        Self { host, asked, task: task.abort_handle() }
    }

    pub(crate) fn name(&self, path: &str) -> ImageRef {
        ImageRef::parse(&format!("{}/{path}", self.host)).unwrap()
    }

    pub(crate) fn targets(&self) -> Vec<String> {
        self.asked.lock().iter().map(|asked| format!("{} {}", asked.method, asked.target)).collect()
    }
}

/// The head of a request, and what of the body came with it.
async fn read_head(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap_or(0);
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(&piece[..read]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    Some(Asked { method, target, headers, body: bytes[end..].to_vec() })
}

/// One request per connection.
async fn serve(mut stream: TcpStream, log: Arc<Mutex<Vec<Asked>>>, script: Script) {
    let Some(mut asked) = read_head(&mut stream).await else { return };
    let length: usize = asked.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let before = {
        let mut log = log.lock();
        log.push(asked.clone());
        log.len() - 1
    };
    let answer = script(&asked, before);
    let wanted = if let Answer::DropBody(limit) = answer { limit.min(length) } else { length };
    while asked.body.len() < wanted {
        let mut piece = [0; 65_536];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => asked.body.extend_from_slice(&piece[..read]),
        }
    }
    log.lock()[before].body = asked.body.clone();
    let (code, headers, body, sent, stall) = match answer {
        Answer::HangUp | Answer::DropBody(_) => return,
        Answer::Reply(code, headers, body) => {
            let sent = body.len();
            (code, headers, body, sent, false)
        }
        Answer::Cut(code, headers, body, sent) => (code, headers, body, sent, false),
        Answer::Stall(code, headers, body, sent) => (code, headers, body, sent, true),
    };
    let mut text = format!("HTTP/1.1 {code} x\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        text += &format!("content-length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let mut out = (text + "\r\n").into_bytes();
    if asked.method != "HEAD" {
        out.extend_from_slice(&body[..sent]);
    }
    // The client may be gone already; then there is nothing to test here.
    if stream.write_all(&out).await.is_ok() && stall {
        std::future::pending::<()>().await;
    }
    drop(stream.shutdown().await);
}
