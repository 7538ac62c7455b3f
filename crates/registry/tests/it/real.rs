//! A real registry on a free port, and what tests push into it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_oci::{ByteStream, Descriptor, ImageRef, Manifest, Platform, Provider, media};
use rbuild_registry::{
    Anonymous, Credentials, Registry, RegistryConfig, RepoOptions, Repository, RetryPolicy,
};

/// `docker-registry` with its data in a temporary folder; gone when dropped.
pub(crate) struct RealRegistry {
    pub(crate) host: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl RealRegistry {
    /// Starts one. `extra`: further YAML of its configuration.
    pub(crate) fn start(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n{extra}\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let host = loop {
            let line = lines.next().expect("the registry ends before it listens").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().trim().to_owned();
            }
        };
        // Its log is read to its end, or the registry would stop at a full pipe.
        std::thread::Builder::new().spawn(move || lines.for_each(drop)).unwrap();
        Self { host, child, _dir: dir }
    }

    pub(crate) fn name(&self, path: &str) -> ImageRef {
        ImageRef::parse(&format!("{}/{path}", self.host)).unwrap()
    }
}

/// Patience for tests: quick, and still more than one try.
pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        first_wait: Duration::from_millis(5),
        max_wait: Duration::from_millis(40),
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(3),
        stall_timeout: Duration::from_millis(300),
    }
}

pub(crate) fn registry() -> Registry {
    Registry::new(RegistryConfig { retry: quick(), ..RegistryConfig::default() }).unwrap()
}

pub(crate) fn repository(name: &ImageRef) -> Repository {
    repository_as(name, Arc::new(Anonymous))
}

pub(crate) fn repository_as(name: &ImageRef, credentials: Arc<dyn Credentials>) -> Repository {
    registry().repository(name, credentials, RepoOptions::default()).unwrap()
}

/// Blobs in memory, in pieces, with breaks on demand.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    pub(crate) opened_at: Mutex<Vec<u64>>,
}

impl Blobs {
    pub(crate) fn add(&self, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let desc = Descriptor::of(media_type, &bytes);
        self.blobs.lock().insert(desc.digest, bytes);
        desc
    }
}

#[async_trait]
impl Provider for Blobs {
    async fn open(&self, desc: &Descriptor, offset: u64) -> std::io::Result<ByteStream> {
        self.opened_at.lock().push(offset);
        let bytes = self.blobs.lock().get(&desc.digest).cloned().ok_or(std::io::ErrorKind::NotFound)?;
        let rest = bytes.slice(usize::try_from(offset).unwrap()..);
        let pieces: Vec<_> = rest.chunks(10_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Ok(futures::stream::iter(pieces).boxed())
    }
}

/// Bytes that do not repeat.
pub(crate) fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Reads a stream to its end.
pub(crate) async fn all(mut stream: ByteStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// Pushes an image with one layer; its manifest's descriptor.
pub(crate) async fn push_image(repository: &Repository, platform: &str, layer: &[u8]) -> Descriptor {
    let blobs = Blobs::default();
    let platform = Platform::parse(platform).unwrap();
    let mut config = rbuild_oci::ImageConfig::new(platform.clone());
    config.rootfs.diff_ids.push(Digest::of(layer));
    let config = blobs.add(media::OCI_CONFIG, config.to_json());
    let layer = blobs.add(media::OCI_LAYER, layer.to_vec());
    for desc in [&config, &layer] {
        repository.push_blob(desc, &blobs, &[], None).await.unwrap();
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: None,
        config,
        layers: vec![layer],
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = rbuild_oci::json::to_vec(&manifest).unwrap();
    let digest = repository
        .push_manifest(media::OCI_MANIFEST, &bytes, rbuild_registry::Reference::Digest)
        .await
        .unwrap();
    Descriptor {
        platform: Some(platform),
        ..Descriptor::new(media::OCI_MANIFEST, digest, bytes.len() as u64)
    }
}
