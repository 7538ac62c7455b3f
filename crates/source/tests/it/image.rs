use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use rbuild_digest::Digest;
use rbuild_oci::layer::{EntryKind, LayerEntry, LayerWriter};
use rbuild_oci::{ByteStream, Descriptor, ImageConfig, ImageRef, Index, Manifest, Platform, Provider, media};
use rbuild_registry::{Anonymous, Reference, RepoOptions, Repository};
use rbuild_source::{ImagePin, Pin, PinDetail, Source, SourceError};

use crate::place::{Place, file, names};

struct RealRegistry {
    host: String,
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
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let storage = format!("storage: {{filesystem: {{rootdirectory: {}}}}}", data.display());
        std::fs::write(&config, format!("version: 0.1\n{storage}\nhttp: {{addr: \"127.0.0.1:0\"}}\n"))
            .unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker-registry is installed");
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

    fn repository(&self, path: &str) -> Repository {
        let registry = rbuild_registry::Registry::new(Default::default()).unwrap();
        let name = ImageRef::parse(&format!("{}/{path}", self.host)).unwrap();
        registry.repository(&name, Arc::new(Anonymous), RepoOptions::default()).unwrap()
    }
}

#[derive(Debug)]
struct Bytes(Vec<u8>);

#[async_trait]
impl Provider for Bytes {
    async fn open(&self, _desc: &Descriptor, offset: u64) -> std::io::Result<ByteStream> {
        let rest = self.0[usize::try_from(offset).unwrap()..].to_vec();
        Ok(futures::stream::iter([Ok(rest.into())]).boxed())
    }
}

async fn push(repo: &Repository, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let desc = Descriptor::of(media_type, &bytes);
    repo.push_blob(&desc, &Bytes(bytes), &[], None).await.unwrap();
    desc
}

fn tar(path: &str, text: &str) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    let entry = LayerEntry { size: text.len() as u64, ..LayerEntry::new(path, EntryKind::File) };
    writer.append(&entry, text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

/// An image of `layers`, for one platform.
async fn push_image(repo: &Repository, platform: &str, layers: &[Vec<u8>]) -> Descriptor {
    let platform = Platform::parse(platform).unwrap();
    let mut config = ImageConfig::new(platform.clone());
    let mut descs = Vec::new();
    for layer in layers {
        config.rootfs.diff_ids.push(Digest::of(layer));
        descs.push(push(repo, media::OCI_LAYER, layer.clone()).await);
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: None,
        config: push(repo, media::OCI_CONFIG, config.to_json()).await,
        layers: descs,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = rbuild_oci::json::to_vec(&manifest).unwrap();
    repo.push_manifest(media::OCI_MANIFEST, &bytes, Reference::Digest).await.unwrap();
    Descriptor { platform: Some(platform), ..Descriptor::of(media::OCI_MANIFEST, &bytes) }
}

async fn push_index(repo: &Repository, tag: &str, manifests: Vec<Descriptor>) -> Digest {
    let index = Index {
        schema_version: 2,
        media_type: media::OCI_INDEX.into(),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = rbuild_oci::json::to_vec(&index).unwrap();
    repo.push_manifest(media::OCI_INDEX, &bytes, Reference::Tag(tag)).await.unwrap()
}

fn image(pin: &Pin) -> &ImagePin {
    match &pin.detail {
        PinDetail::Image(image) => image,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_image_is_resolved_without_its_layers_and_pulled_when_read() {
    let real = RealRegistry::start();
    let repo = real.repository("team/app");
    let (below, above) = (tar("below", "1"), tar("above", "2"));
    let amd64 = push_image(&repo, "linux/amd64", &[below.clone(), above.clone()]).await;
    let arm64 = push_image(&repo, "linux/arm64", &[tar("arm", "3")]).await;
    let root = push_index(&repo, "v1", vec![amd64.clone(), arm64]).await;

    let place = Place::new();
    let source = place.image();
    let mut request = place.ask(&format!("docker-image://{}/team/app:v1", real.host), &[]);
    request.platform = Some(Platform::parse("linux/amd64").unwrap());
    let pin = source.resolve(&request).await.unwrap();
    let found = image(&pin);
    assert_eq!((found.digest, found.manifest.digest), (root, amd64.digest));
    assert_eq!(found.reference.to_string(), format!("{}/team/app:v1@{root}", real.host));
    let chain = Digest::of(format!("{} {}", Digest::of(&below), Digest::of(&above)));
    assert_eq!((pin.key.as_str(), pin.volatile), (chain.to_string().as_str(), false));

    let tree = source.fetch(&request, &pin).await.unwrap();
    assert!(tree.is_lazy(), "no layer was fetched yet");
    assert_eq!(names(&tree).await, ["above", "below"]);
    assert_eq!(file(&tree, "above").await.0, b"2");
    let again = source.fetch(&request, &pin).await.unwrap();
    assert_eq!(again.id(), tree.id(), "the same layers are the same ref");

    request.platform = Some(Platform::parse("linux/s390x").unwrap());
    let error = source.resolve(&request).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("linux/s390x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_tag_means_one_thing_within_a_build_and_the_newest_in_the_next() {
    let real = RealRegistry::start();
    let repo = real.repository("app");
    let one = push_image(&repo, "linux/amd64", &[tar("f", "1")]).await;
    let two = push_image(&repo, "linux/amd64", &[tar("f", "2")]).await;
    let first = push_index(&repo, "latest", vec![one]).await;
    let place = Place::new();
    let source = place.image();
    let platform = Platform::parse("linux/amd64").unwrap();
    let mut request = place.ask(&format!("docker-image://{}/app", real.host), &[]);
    request.platform = Some(platform.clone());
    assert_eq!(image(&source.resolve(&request).await.unwrap()).digest, first);
    let second = push_index(&repo, "latest", vec![two]).await;
    assert_eq!(image(&source.resolve(&request).await.unwrap()).digest, first);
    let mut next = place.ask(&format!("docker-image://{}/app", real.host), &[]);
    next.platform = Some(platform.clone());
    assert_eq!(image(&source.resolve(&next).await.unwrap()).digest, second);
    let pinned = format!("docker-image://{}/app:latest@{first}", real.host);
    let mut by_digest = place.ask(&pinned, &[]);
    by_digest.platform = Some(platform);
    assert_eq!(image(&source.resolve(&by_digest).await.unwrap()).digest, first);
    by_digest.op.attrs.insert("image.checksum".into(), second.to_string());
    assert!(matches!(source.resolve(&by_digest).await.unwrap_err(), SourceError::Digest { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_the_local_store_answers_by_mode() {
    let place = Place::new();
    let layer = tar("local", "here");
    let mut config = ImageConfig::new(Platform::host());
    config.rootfs.diff_ids.push(Digest::of(&layer));
    let config = config.to_json();
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::of(media::OCI_CONFIG, &config),
        layers: vec![Descriptor::of(media::OCI_LAYER, &layer)],
        subject: None,
        annotations: BTreeMap::new(),
    };
    let bytes = rbuild_oci::json::to_vec(&manifest).unwrap();
    let desc = Descriptor::of(media::OCI_MANIFEST, &bytes);
    for blob in [&layer, &config, &bytes] {
        place.store.content().put(blob).unwrap();
    }
    // A port where nobody listens.
    let name = "127.0.0.1:1/app:latest";
    let blobs = [desc.clone(), manifest.config.clone(), manifest.layers[0].clone()];
    place.store.put_image(name, desc.clone(), &blobs).await.unwrap();

    let source = place.image();
    let request = place.ask(&format!("docker-image://{name}"), &[("image.resolvemode", "local")]);
    let pin = source.resolve(&request).await.unwrap();
    assert_eq!(image(&pin).digest, desc.digest);
    let tree = source.fetch(&request, &pin).await.unwrap();
    assert_eq!(file(&tree, "local").await.0, b"here");
    let bad = place.ask(&format!("docker-image://{name}"), &[("image.resolvemode", "odd")]);
    assert!(matches!(source.resolve(&bad).await.unwrap_err(), SourceError::Invalid { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_images_without_layers_and_with_a_limit() {
    let real = RealRegistry::start();
    let repo = real.repository("app");
    let host = Platform::host().to_string();
    let none = push_image(&repo, &host, &[]).await;
    let (a, b) = (tar("a", "a"), tar("b", "b"));
    let both = push_image(&repo, &host, &[a.clone(), b]).await;
    let place = Place::new();
    let source = place.image();
    let empty = place.ask(&format!("docker-image://{}/app@{}", real.host, none.digest), &[]);
    let pin = source.resolve(&empty).await.unwrap();
    assert_eq!(pin.key, image(&pin).config_digest.to_string());
    assert!(names(&source.fetch(&empty, &pin).await.unwrap()).await.is_empty());
    let limit = [("image.layerlimit", "1")];
    let first = place.ask(&format!("docker-image://{}/app@{}", real.host, both.digest), &limit);
    let pin = source.resolve(&first).await.unwrap();
    assert_eq!(pin.key, Digest::of(&a).to_string());
    assert_eq!(names(&source.fetch(&first, &pin).await.unwrap()).await, ["a"]);
    let gone = place.ask(&format!("docker-image://{}/app:gone", real.host), &[]);
    assert!(source.resolve(&gone).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_layer_comes_from_where_it_was_resolved_last() {
    let (gone, there) = (RealRegistry::start(), RealRegistry::start());
    let host = Platform::host().to_string();
    let mut pushed = Vec::new();
    for real in [&gone, &there] {
        pushed.push(push_image(&real.repository("app"), &host, &[tar("f", "x")]).await.digest);
    }
    let place = Place::new();
    let source = place.image();
    let request = place.ask(&format!("docker-image://{}/app@{}", gone.host, pushed[0]), &[]);
    let pin = source.resolve(&request).await.unwrap();
    let tree = source.fetch(&request, &pin).await.unwrap();
    drop(gone);
    // A build that finds the ref in the cache resolves its own image and no more.
    source
        .resolve(&place.ask(&format!("docker-image://{}/app@{}", there.host, pushed[1]), &[]))
        .await
        .unwrap();
    assert_eq!(file(&tree, "f").await.0, b"x");
}
