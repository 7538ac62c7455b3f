use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

const SECRET: &str = "hushtoken";
const TWIRP: &str = "/twirp/github.actions.results.api.v1.CacheService/";
const REST: &str = "/_apis/artifactcache/";

/// The cache service of GitHub Actions, both of its interfaces and the store behind the second, as its public definition
/// has them. It lives as long as the test process.
#[derive(Debug, Clone)]
pub struct TestGha {
    host: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Complete ones, oldest first.
    entries: Vec<Entry>,
    writing: BTreeMap<u64, Entry>,
    last: u64,
    asked: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    id: u64,
    key: String,
    version: String,
    bytes: Vec<u8>,
    blocks: BTreeMap<String, Vec<u8>>,
}

impl TestGha {
    /// Starts empty.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let this = Self { host, shared: Arc::default() };
        let server = this.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the test process")]
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let server = server.clone();
                    let service = hyper::service::service_fn(move |request| {
                        let server = server.clone();
                        async move { Ok::<_, std::convert::Infallible>(server.serve(request).await) }
                    });
                    // Connections end with the process.
                    tokio::spawn(async move {
                        let server = hyper::server::conn::http1::Builder::new();
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    });
                }
            });
        });
        this
    }

    /// The cache of a scope, as `--cache-to` and `--cache-from` take it, for a run on `branch`, which may read what
    /// `main` has.
    pub fn cache(&self, version: u8, scope: &str, branch: &str) -> String {
        let branches =
            json!([{ "Scope": branch, "Permission": 3 }, { "Scope": "refs/heads/main", "Permission": 1 }]);
        let claims = json!({ "ac": branches.to_string() }).to_string();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        let name = if version == 1 { "url" } else { "url_v2" };
        format!("type=gha,{name}=http://{}/,token=h.{claims}.{SECRET},scope={scope}", self.host)
    }

    /// Keys of complete entries.
    pub fn keys(&self) -> Vec<String> {
        self.shared.lock().unwrap().entries.iter().map(|entry| entry.key.clone()).collect()
    }

    /// Forgets entries whose keys begin so.
    pub fn evict(&self, beginning: &str) {
        self.shared.lock().unwrap().entries.retain(|entry| !entry.key.starts_with(beginning));
    }

    /// What was asked since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().asked)
    }

    async fn serve(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let header =
            |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(head.uri.query().unwrap_or("").as_bytes()).into_owned().collect();
        let path = head.uri.path();
        let mut shared = self.shared.lock().unwrap();
        shared.asked.push(format!("{} {path}", head.method));
        // What is signed needs no token, and must not be given one.
        let wants_token = !path.starts_with("/signed/");
        if header("authorization").ends_with(SECRET) != wants_token {
            return answer(401, &json!({ "msg": "who are you" }));
        }
        if let Some(id) = path.strip_prefix("/signed/") {
            return shared.signed(id.parse().unwrap(), &head.method, &query, header("range"), &body);
        }
        let question: Value = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(method) = path.strip_prefix(TWIRP) {
            return shared.twirp(&self.host, method, &question);
        }
        match path.strip_prefix(REST).map(|path| path.split_once('/').unwrap_or((path, ""))) {
            Some(("cache", "")) => shared.lookup(&self.host, &query),
            Some(("caches", "")) => match shared.reserve(&question) {
                Some(id) => answer(201, &json!({ "cacheId": id })),
                None => answer(409, &json!({ "message": "there is one" })),
            },
            Some(("caches", id)) => {
                shared.rest(id.parse().unwrap(), &head.method, header("content-range"), &body)
            }
            _ => answer(404, &json!({})),
        }
    }
}

impl Shared {
    fn find(&self, key: &str, version: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.version == version && entry.key.starts_with(key))
    }

    fn reserve(&mut self, question: &Value) -> Option<u64> {
        let (key, version) = (question["key"].as_str()?.to_owned(), question["version"].as_str()?.to_owned());
        if self.entries.iter().any(|entry| entry.key == key && entry.version == version) {
            return None;
        }
        self.last += 1;
        self.writing.insert(self.last, Entry { id: self.last, key, version, ..Entry::default() });
        Some(self.last)
    }

    /// Whether as many bytes arrived as were announced.
    fn commit(&mut self, id: u64, size: &Value) -> bool {
        let Some(entry) = self.writing.remove(&id) else { return false };
        let whole = size.as_u64() == Some(entry.bytes.len() as u64);
        if whole {
            self.entries.push(entry);
        }
        whole
    }

    fn lookup(&self, host: &str, query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
        match self.find(&query["keys"], &query["version"]) {
            None => Response::builder().status(204).body(Full::default()).unwrap(),
            Some(entry) => {
                let at = format!("http://{host}/signed/{}?sig=1", entry.id);
                answer(200, &json!({ "archiveLocation": at, "cacheKey": entry.key, "scope": "x" }))
            }
        }
    }

    fn rest(&mut self, id: u64, method: &Method, range: &str, body: &[u8]) -> Response<Full<Bytes>> {
        if method == Method::POST {
            let question: Value = serde_json::from_slice(body).unwrap();
            return answer(if self.commit(id, &question["size"]) { 204 } else { 400 }, &json!({}));
        }
        let start: usize = range.strip_prefix("bytes ").unwrap().split_once('-').unwrap().0.parse().unwrap();
        let bytes = &mut self.writing.get_mut(&id).unwrap().bytes;
        bytes.truncate(start);
        bytes.extend_from_slice(body);
        answer(204, &json!({}))
    }

    fn twirp(&mut self, host: &str, method: &str, question: &Value) -> Response<Full<Bytes>> {
        let at = |id: u64| format!("http://{host}/signed/{id}?sig=1");
        let text = |name: &str| question[name].as_str().unwrap_or_default().to_owned();
        match method {
            "CreateCacheEntry" => match self.reserve(question) {
                Some(id) => answer(200, &json!({ "ok": true, "signedUploadUrl": at(id) })),
                None => answer(409, &json!({ "code": "already_exists", "msg": "there is one" })),
            },
            "FinalizeCacheEntryUpload" => {
                let key = text("key");
                let id = self.writing.values().find(|entry| entry.key == key).map(|entry| entry.id);
                let done = id.is_some_and(|id| self.commit(id, &question["size_bytes"]));
                answer(200, &json!({ "ok": done, "entryId": id.unwrap_or(0).to_string() }))
            }
            "GetCacheEntryDownloadURL" => match self.find(&text("key"), &text("version")) {
                Some(entry) => {
                    let found =
                        json!({ "ok": true, "signed_download_url": at(entry.id), "matched_key": entry.key });
                    answer(200, &found)
                }
                None => answer(200, &json!({ "ok": false })),
            },
            _ => answer(404, &json!({ "code": "bad_route" })),
        }
    }

    fn signed(
        &mut self,
        id: u64,
        method: &Method,
        query: &BTreeMap<String, String>,
        range: &str,
        body: &[u8],
    ) -> Response<Full<Bytes>> {
        if method == Method::GET {
            let Some(entry) = self.entries.iter().find(|entry| entry.id == id) else {
                return answer(404, &json!({}));
            };
            let start: Option<usize> =
                range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse().ok());
            let bytes = Bytes::copy_from_slice(&entry.bytes[start.unwrap_or(0)..]);
            let status = if start.is_some() { 206 } else { 200 };
            return Response::builder().status(status).body(Full::new(bytes)).unwrap();
        }
        let entry = self.writing.get_mut(&id).unwrap();
        match query.get("comp").map(String::as_str) {
            Some("block") => drop(entry.blocks.insert(query["blockid"].clone(), body.to_vec())),
            Some("blocklist") => {
                let list = String::from_utf8(body.to_vec()).unwrap();
                let ids = list.split("<Latest>").skip(1).map(|rest| rest.split('<').next().unwrap());
                entry.bytes = ids.flat_map(|id| entry.blocks[id].clone()).collect();
            }
            _ => entry.bytes = body.to_vec(),
        }
        answer(201, &json!({}))
    }
}

fn answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let body = if status == 204 { Bytes::new() } else { Bytes::from(body.to_string()) };
    Response::builder().status(status).body(Full::new(body)).unwrap()
}
