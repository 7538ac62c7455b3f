use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rbuild_oci::{Index, Manifest, Platform, PlatformMatcher, media};
use rbuild_registry::{MountFrom, Reference, RegistryError};

use crate::real::{Blobs, RealRegistry, all, noise, push_image, repository};

fn index(manifests: Vec<rbuild_oci::Descriptor>) -> Vec<u8> {
    let index = Index {
        schema_version: 2,
        media_type: media::OCI_INDEX.into(),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: Default::default(),
    };
    rbuild_oci::json::to_vec(&index).unwrap()
}

#[tokio::test]
async fn an_image_is_pushed_and_pulled() {
    let real = RealRegistry::start("");
    let name = real.name("team/app:v1");
    let repo = repository(&name);
    let amd64 = push_image(&repo, "linux/amd64", b"layer of amd64").await;
    let arm64 = push_image(&repo, "linux/arm64", b"layer of arm64").await;
    let bytes = index(vec![amd64.clone(), arm64.clone()]);
    let pushed = repo.push_manifest(media::OCI_INDEX, &bytes, Reference::Tag("v1")).await.unwrap();

    // Another client, without anything in memory.
    let repo = repository(&name);
    let root = repo.resolve(&name).await.unwrap();
    assert_eq!(
        (root.digest, root.media_type.as_str(), root.size),
        (pushed, media::OCI_INDEX, bytes.len() as u64)
    );
    assert_eq!(repo.resolve(&name.with_digest(arm64.digest)).await.unwrap().digest, arm64.digest);
    let wanted = Platform::parse("linux/arm64").unwrap();
    let image = repo.select(&root, &PlatformMatcher::only(&wanted), "linux/arm64").await.unwrap();
    assert_eq!(image.desc.digest, arm64.digest);
    let layer = repo.blob(&image.manifest.layers[0], 0).await.unwrap();
    assert_eq!(all(layer).await.unwrap(), b"layer of arm64");
    let layer = repo.blob(&image.manifest.layers[0], 9).await.unwrap();
    assert_eq!(all(layer).await.unwrap(), b"arm64");
    assert!(repo.config(&image.manifest).await.unwrap().starts_with(b"{\"architecture\":\"arm64\""));
    assert_eq!(repo.tags().await.unwrap(), ["v1"]);

    let wanted = Platform::parse("linux/s390x").unwrap();
    let error = repo.select(&root, &PlatformMatcher::only(&wanted), "linux/s390x").await.unwrap_err();
    assert!(
        error.to_string().contains("linux/s390x in manifest list (it has linux/amd64, linux/arm64)"),
        "{error}"
    );
    let error = repo.resolve(&name.with_tag("gone").unwrap()).await.unwrap_err();
    assert!(
        error.is_not_found() && error.to_string().contains(&format!("{}/team/app:gone", real.host)),
        "{error}"
    );
}

#[tokio::test]
async fn blobs_are_sent_once_and_mounted_from_neighbours() {
    let real = RealRegistry::start("");
    let (first, second) = (repository(&real.name("a/first")), repository(&real.name("b/second")));
    let blobs = Blobs::default();
    let desc = blobs.add(media::OCI_LAYER_GZIP, noise(3_000_000, 7));
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let progress: rbuild_registry::PushProgress =
        Arc::new(move |bytes| counter.store(bytes, Ordering::SeqCst));
    assert!(!first.has_blob(&desc).await.unwrap());
    assert!(first.push_blob(&desc, &blobs, &[], Some(progress)).await.unwrap());
    assert_eq!(sent.load(Ordering::SeqCst), desc.size);
    assert!(first.has_blob(&desc).await.unwrap());
    assert!(!first.push_blob(&desc, &blobs, &[], None).await.unwrap(), "it is there");
    let from = [MountFrom(real.name("x/nothing")), MountFrom(real.name("a/first"))];
    assert!(!second.push_blob(&desc, &blobs, &from, None).await.unwrap(), "it is mounted");
    assert_eq!(blobs.opened_at.lock().len(), 1);
    let pulled = second.blob(&desc, 0).await.unwrap();
    assert_eq!(rbuild_digest::Digest::of(all(pulled).await.unwrap()), desc.digest);
    let empty = blobs.add(media::OCI_LAYER, "");
    assert!(first.push_blob(&empty, &blobs, &[], None).await.unwrap());
    assert!(all(first.blob(&empty, 0).await.unwrap()).await.unwrap().is_empty());
}

#[tokio::test]
async fn bytes_that_are_not_the_blob_are_refused() {
    let real = RealRegistry::start("");
    let repo = repository(&real.name("app"));
    let blobs = Blobs::default();
    let desc = blobs.add(media::OCI_LAYER, "right");
    let liar = Blobs::default();
    let mut wrong = liar.add(media::OCI_LAYER, "wrong");
    wrong.digest = desc.digest;
    let error = repo.push_blob(&wrong, &liar, &[], None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Read { .. }), "{error}");

    #[derive(Debug)]
    struct Lies;
    #[async_trait::async_trait]
    impl rbuild_oci::Provider for Lies {
        async fn open(&self, _: &rbuild_oci::Descriptor, _: u64) -> std::io::Result<rbuild_oci::ByteStream> {
            let piece = Ok(bytes::Bytes::from_static(b"wrong"));
            Ok(futures::StreamExt::boxed(futures::stream::iter([piece])))
        }
    }
    let error = repo.push_blob(&desc, &Lies, &[], None).await.unwrap_err();
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
    assert!(!repo.has_blob(&desc).await.unwrap());
}

#[tokio::test]
async fn a_manifest_without_its_blobs_is_the_registrys_error() {
    let real = RealRegistry::start("");
    let name = real.name("app:x");
    let repo = repository(&name);
    let blobs = Blobs::default();
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: None,
        config: blobs.add(media::OCI_CONFIG, "{}"),
        layers: vec![],
        subject: None,
        annotations: Default::default(),
    };
    let bytes = rbuild_oci::json::to_vec(&manifest).unwrap();
    let error =
        repo.push_manifest(media::OCI_MANIFEST, &bytes, Reference::Tag("x")).await.unwrap_err().to_string();
    assert!(
        error.contains(&real.host) && error.contains("app:x") && error.contains("BLOB_UNKNOWN"),
        "{error}"
    );
}

#[tokio::test]
async fn skopeo_reads_what_we_push() {
    let real = RealRegistry::start("");
    let repo = repository(&real.name("app"));
    let image = push_image(&repo, "linux/amd64", b"not really a tar").await;
    let bytes = repo.manifest(&image).await.unwrap();
    repo.push_manifest(media::OCI_MANIFEST, &bytes, Reference::Tag("latest")).await.unwrap();
    let output = tokio::process::Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", &format!("docker://{}/app:latest", real.host)])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains(&image.digest.to_string()), "{output:?}");
}
