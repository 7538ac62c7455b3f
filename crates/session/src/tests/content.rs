use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use parking_lot::Mutex;
use rbuild_api::containerd::services::content::v1 as content;
use rbuild_digest::Digest;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::{BlobTarget, names};

type Answer<T> = std::result::Result<Response<T>, Status>;
type Written = BoxStream<'static, std::result::Result<content::WriteContentResponse, Status>>;

/// A content store in memory. Takes writes as containerd's does: each in its place, the whole checked at the commit.
#[derive(Clone, Default)]
struct FakeStore {
    blobs: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// By reference: what an earlier attempt left.
    partial: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    stores: Arc<Mutex<Vec<String>>>,
}

impl FakeStore {
    fn take(&self, request: content::WriteContentRequest) -> std::result::Result<i64, Status> {
        if self.blobs.lock().contains_key(&request.expected) {
            return Err(Status::already_exists(request.expected));
        }
        let mut partial = self.partial.lock();
        let held = partial.entry(request.r#ref.clone()).or_default();
        if request.action() != content::WriteAction::Stat && request.offset != held.len() as i64 {
            return Err(Status::out_of_range(format!("{} instead of {}", request.offset, held.len())));
        }
        held.extend_from_slice(&request.data);
        let length = held.len() as i64;
        if request.action() == content::WriteAction::Commit {
            let bytes = partial.remove(&request.r#ref).unwrap_or_default();
            if Digest::of(&bytes).to_string() != request.expected || request.total != length {
                return Err(Status::failed_precondition("unexpected commit digest"));
            }
            self.blobs.lock().insert(request.expected, bytes);
        }
        Ok(length)
    }
}

#[tonic::async_trait]
impl content::content_server::Content for FakeStore {
    type ListStream = BoxStream<'static, std::result::Result<content::ListContentResponse, Status>>;
    type ReadStream = BoxStream<'static, std::result::Result<content::ReadContentResponse, Status>>;
    type WriteStream = Written;

    async fn write(&self, request: Request<Streaming<content::WriteContentRequest>>) -> Answer<Written> {
        let store = request.metadata().get(names::STORE_ID).map(|value| value.to_str().unwrap().to_owned());
        self.stores.lock().extend(store);
        let this = self.clone();
        let answer = move |request: std::result::Result<content::WriteContentRequest, Status>| {
            let offset = this.take(request?)?;
            Ok(content::WriteContentResponse { offset, ..content::WriteContentResponse::default() })
        };
        Ok(Response::new(request.into_inner().map(answer).boxed()))
    }

    async fn info(&self, _: Request<content::InfoRequest>) -> Answer<content::InfoResponse> {
        Err(Status::unimplemented("info"))
    }

    async fn update(&self, _: Request<content::UpdateRequest>) -> Answer<content::UpdateResponse> {
        Err(Status::unimplemented("update"))
    }

    async fn list(&self, _: Request<content::ListContentRequest>) -> Answer<Self::ListStream> {
        Err(Status::unimplemented("list"))
    }

    async fn delete(&self, _: Request<content::DeleteContentRequest>) -> Answer<()> {
        Err(Status::unimplemented("delete"))
    }

    async fn read(&self, _: Request<content::ReadContentRequest>) -> Answer<Self::ReadStream> {
        Err(Status::unimplemented("read"))
    }

    async fn status(&self, _: Request<content::StatusRequest>) -> Answer<content::StatusResponse> {
        Err(Status::unimplemented("status"))
    }

    async fn list_statuses(
        &self,
        _: Request<content::ListStatusesRequest>,
    ) -> Answer<content::ListStatusesResponse> {
        Err(Status::unimplemented("list_statuses"))
    }

    async fn abort(&self, _: Request<content::AbortRequest>) -> Answer<()> {
        Err(Status::unimplemented("abort"))
    }
}

async fn put(session: &Session, digest: &str, bytes: &[u8]) -> crate::Result<()> {
    let target = BlobTarget { store: names::EXPORT_STORE, digest, size: bytes.len() as u64 };
    let chunks: Vec<_> = bytes.chunks(3_000_000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    session.put_blob(target, futures::stream::iter(chunks)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_go_into_the_clients_store_once() {
    let store = FakeStore::default();
    let service = content::content_server::ContentServer::new(store.clone());
    let client =
        ClientSession::builder().build_with(&[names::CONTENT_WRITE], |routes| routes.add_service(service));
    let mut world = World::new();
    let session = world.session(client).await;
    let big: Vec<u8> = (0..7_000_000u32).map(|i| i as u8).collect();
    for bytes in [&big[..], b"", b"small"] {
        let digest = Digest::of(bytes).to_string();
        put(&session, &digest, bytes).await.unwrap();
        assert!(store.blobs.lock()[&digest] == bytes);
        // It is there: nothing is sent, and that is no error.
        put(&session, &digest, bytes).await.unwrap();
    }
    assert!(store.stores.lock().iter().all(|id| id == "export"));

    let digest = Digest::of("resumed").to_string();
    store.partial.lock().insert(digest.clone(), b"resu".to_vec());
    put(&session, &digest, b"resumed").await.unwrap();
    assert_eq!(store.blobs.lock()[&digest], b"resumed");

    let wrong = Digest::of("other").to_string();
    let error = put(&session, &wrong, b"not that").await.unwrap_err();
    assert!(error.to_string().contains("unexpected commit digest"), "{error}");
    assert!(!store.blobs.lock().contains_key(&wrong));
}

#[tokio::test]
async fn clients_without_a_store_are_not_called() {
    let mut world = World::new();
    let session = world.session(ClientSession::builder().build()).await;
    let error = put(&session, &Digest::of("x").to_string(), b"x").await.unwrap_err();
    assert!(error.is_unsupported(), "{error}");
}

async fn read(session: &crate::Session, store: &str, digest: &str, offset: u64) -> crate::Result<Vec<u8>> {
    let stream = session.read_blob(store, digest, offset).await?;
    let mut stream = Box::pin(stream);
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend(piece.map_err(|error| crate::SessionError::io("read", error))?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn blobs_go_into_a_clients_directory_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = crate::client::ContentStores::new();
    stores.add_writable("local:cache", dir.path().join("new")).unwrap();
    let mut world = World::new();
    let session = world.session(ClientSession::builder().stores(stores).build()).await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let digest = Digest::of(&bytes).to_string();
    let target = BlobTarget { store: "local:cache", digest: &digest, size: bytes.len() as u64 };
    let data = || {
        futures::stream::iter(
            bytes.chunks(700_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect::<Vec<_>>(),
        )
    };
    assert_eq!(session.blob_size("local:cache", &digest).await.unwrap(), None);
    session.put_blob(target, data()).await.unwrap();
    session.put_blob(target, data()).await.unwrap();
    assert_eq!(session.blob_size("local:cache", &digest).await.unwrap(), Some(3_000_000));
    assert_eq!(read(&session, "local:cache", &digest, 0).await.unwrap(), bytes);
    assert_eq!(read(&session, "local:cache", &digest, 2_999_990).await.unwrap(), bytes[2_999_990..]);
    let wrong = Digest::of("other").to_string();
    let target = BlobTarget { store: "local:cache", digest: &wrong, size: bytes.len() as u64 };
    session.put_blob(target, data()).await.unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path().join("new/ingest")).unwrap().count(), 0, "nothing is left over");
    assert_eq!(std::fs::read_dir(dir.path().join("new/blobs/sha256")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_client_offers_the_stores_it_named_and_writes_only_where_it_said() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "blobs/sha256/readme", "not a blob");
    let bytes = b"blob";
    let digest = Digest::of(bytes);
    write(dir.path(), &format!("blobs/sha256/{}", digest.hex()), "blob");
    let mut stores = crate::client::ContentStores::new();
    stores.add_readable("oci:base", dir.path()).unwrap();
    let mut world = World::new();
    let session = world.session(ClientSession::builder().stores(stores).build()).await;
    let digest = digest.to_string();
    assert_eq!(read(&session, "oci:base", &digest, 0).await.unwrap(), bytes);
    assert!(read(&session, "oci:other", &digest, 0).await.is_err());
    assert!(read(&session, "oci:base", "sha256:../../etc/passwd", 0).await.is_err());
    let other = Digest::of("new").to_string();
    let target = BlobTarget { store: "oci:base", digest: &other, size: 3 };
    let error = session.put_blob(target, futures::stream::iter([Ok(Bytes::from("new"))])).await.unwrap_err();
    assert!(error.to_string().contains("reading only"), "{error}");
}
