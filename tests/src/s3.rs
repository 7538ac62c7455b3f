use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;

use crate::TestSpace;

const ACCESS: &str = "AKIATEST";
const SECRET: &str = "hush/hush+hush";

/// An S3 server on a port of its own that checks signatures, with one bucket, `cache`, in a folder. It lives as long as
/// the test process.
#[derive(Debug)]
pub struct TestS3 {
    /// `address:port`.
    pub host: String,
    space: TestSpace,
    asked: Arc<Mutex<Vec<String>>>,
    held: Arc<tokio::sync::watch::Sender<bool>>,
}

impl TestS3 {
    /// Starts with an empty bucket.
    pub fn start() -> Self {
        Self::start_on("127.0.0.1")
    }

    /// Starts with an empty bucket on another address of this machine.
    pub fn start_on(address: &str) -> Self {
        let space = TestSpace::new();
        std::fs::create_dir_all(space.at("cache")).unwrap();
        let listener = TcpListener::bind((address, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let files = s3s_fs::FileSystem::new(space.path()).unwrap();
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = service.build();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = asked.clone();
        let held = Arc::new(tokio::sync::watch::channel(false).0);
        let gate = held.clone();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the test process")]
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (service, log, gate) = (service.clone(), log.clone(), gate.clone());
                    let service = hyper::service::service_fn(move |request: hyper::Request<_>| {
                        let line = format!("{} {}", request.method(), request.uri());
                        log.lock().unwrap().push(line);
                        let mut gate = gate.subscribe();
                        let wait = request.method() == hyper::Method::PUT;
                        let answer = hyper::service::Service::call(&service, request);
                        async move {
                            if wait {
                                gate.wait_for(|held| !held).await.unwrap();
                            }
                            answer.await
                        }
                    });
                    // Connections end with the process.
                    tokio::spawn(async move {
                        let server = Builder::new(TokioExecutor::new());
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    });
                }
            });
        });
        Self { host, space, asked, held }
    }

    /// Answers no `PUT` until it is called with `false`.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// A cache of this name in the bucket, as `--cache-to` and `--cache-from` take it, with the keys.
    pub fn cache(&self, name: &str) -> String {
        format!("{},access_key_id={ACCESS},secret_access_key={SECRET}", self.cache_without_keys(name))
    }

    /// The same without the keys.
    pub fn cache_without_keys(&self, name: &str) -> String {
        let host = &self.host;
        format!(
            "type=s3,bucket=cache,region=test-1,endpoint_url=http://{host},use_path_style=true,name={name}"
        )
    }

    /// The bucket as the cache that a daemon shares with others, for its configuration.
    pub fn settings(&self) -> String {
        let pairs = self.cache("unused").replace(",name=unused", "");
        let lines = pairs.split(',').filter_map(|pair| pair.split_once('='));
        lines.map(|(name, value)| format!("{name} = \"{value}\"\n")).collect()
    }

    /// The keys, as the environment has them.
    pub fn variables(&self) -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS), ("AWS_SECRET_ACCESS_KEY", SECRET)]
    }

    /// The folder of the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.space.at("cache")
    }

    /// What was asked since the last call: `PUT /cache/blobs/…`.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}
