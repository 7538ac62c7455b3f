use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rbuild_digest::Digest;

/// How a page is served.
#[derive(Debug, Clone)]
pub enum Page {
    /// With an `ETag`, in ranges if asked.
    Plain(Vec<u8>),
    /// With an `ETag`; the first answer breaks off after that many bytes.
    BreaksOff(Vec<u8>, usize),
    /// A redirect.
    Redirect(String),
    /// An error.
    Status(u16),
    /// Head and half a byte of promise, then silence.
    Stalls,
}

#[derive(Debug, Default)]
struct Shared {
    pages: Mutex<BTreeMap<String, Page>>,
    /// First line and the headers that matter, in order.
    asked: Mutex<Vec<String>>,
}

/// A web server on a port of its own. It lives as long as the test process.
#[derive(Debug, Clone)]
pub struct TestHttp {
    host: String,
    shared: Arc<Shared>,
}

impl TestHttp {
    /// Starts without a page.
    #[allow(clippy::new_without_default, reason = "it opens a socket")]
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::<Shared>::default();
        let server = shared.clone();
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the test process")]
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), server) = (stream, server.clone()) else { continue };
                std::thread::spawn(move || {
                    // A client that hangs up is none of the server's business.
                    drop(serve(stream, &server));
                });
            }
        });
        Self { host, shared }
    }

    /// `http://host:port/path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host)
    }

    /// Serves a page from now on.
    pub fn put(&self, path: &str, page: Page) -> String {
        self.shared.pages.lock().unwrap().insert(format!("/{path}"), page);
        self.url(path)
    }

    /// What was asked so far: `GET /path` with `range:`, `if-none-match:` and `authorization:` headers.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut asked = format!("{method} {target}");
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        let name = name.to_ascii_lowercase();
        if matches!(&*name, "range" | "if-none-match" | "authorization") {
            asked += &format!(" {name}: {value}");
        }
        headers.insert(name, value.to_owned());
    }
    shared.asked.lock().unwrap().push(asked);
    let page = shared.pages.lock().unwrap().get(&path).cloned().unwrap_or(Page::Status(404));
    if let Page::BreaksOff(bytes, _) = &page {
        shared.pages.lock().unwrap().insert(path, Page::Plain(bytes.clone()));
    }
    answer(stream, page, &headers)
}

fn answer(mut stream: TcpStream, page: Page, headers: &BTreeMap<String, String>) -> std::io::Result<()> {
    match page {
        Page::Status(code) => {
            write!(stream, "HTTP/1.1 {code} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        Page::Redirect(to) => write!(
            stream,
            "HTTP/1.1 302 x\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ),
        Page::Stalls => {
            write!(stream, "HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\nx")?;
            // Until the client leaves.
            stream.read(&mut [0]).map(drop)
        }
        Page::BreaksOff(bytes, after) => whole(&mut stream, &bytes, &bytes[..after]),
        Page::Plain(bytes) => {
            let tag = etag(&bytes);
            if headers.get("if-none-match") == Some(&tag) {
                return write!(stream, "HTTP/1.1 304 x\r\netag: {tag}\r\nconnection: close\r\n\r\n");
            }
            let start = headers.get("range").and_then(|range| range.strip_prefix("bytes="));
            let start = start.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
            match start.filter(|start| *start < bytes.len() && headers.get("if-range") == Some(&tag)) {
                None => whole(&mut stream, &bytes, &bytes),
                Some(start) => {
                    let (end, size) = (bytes.len() - 1, bytes.len());
                    write!(
                        stream,
                        "HTTP/1.1 206 x\r\netag: {tag}\r\ncontent-range: bytes {start}-{end}/{size}\r\n\
                         content-length: {}\r\nconnection: close\r\n\r\n",
                        size - start
                    )?;
                    stream.write_all(&bytes[start..])
                }
            }
        }
    }
}

fn whole(stream: &mut TcpStream, bytes: &[u8], sent: &[u8]) -> std::io::Result<()> {
    let (tag, size) = (etag(bytes), bytes.len());
    write!(stream, "HTTP/1.1 200 x\r\netag: {tag}\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n")?;
    stream.write_all(sent)
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", Digest::of(bytes).hex())
}
