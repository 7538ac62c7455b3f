use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, ImageRef, media};
use rbuild_registry::{Anonymous, HostConfig, Registry, RegistryConfig, RepoOptions, Repository};

use crate::hostile::{Hostile, ok, status};
use crate::real::{all, quick};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

fn with_mirrors(domain: &str, mirrors: &[&str]) -> Repository {
    let host =
        HostConfig { mirrors: mirrors.iter().map(|m| (*m).to_owned()).collect(), ..HostConfig::default() };
    let hosts = BTreeMap::from([(domain.to_owned(), host)]);
    let registry =
        Registry::new(RegistryConfig { hosts, retry: quick(), ..RegistryConfig::default() }).unwrap();
    let name = ImageRef::parse(&format!("{domain}/app")).unwrap();
    registry.repository(&name, Arc::new(Anonymous), RepoOptions::default()).unwrap()
}

#[tokio::test]
async fn mirrors_are_asked_first_and_told_for_whom() {
    let mirror = Hostile::start(|_, _| ok(MANIFEST)).await;
    let upstream = Hostile::start(|_, _| ok(MANIFEST)).await;
    let repo = with_mirrors(&upstream.host, &[&format!("{}/cache/x", mirror.host)]);
    let desc = Descriptor::of(media::OCI_MANIFEST, MANIFEST);
    repo.manifest(&desc).await.unwrap();
    let ns = upstream.host.replace(':', "%3A");
    assert_eq!(mirror.targets(), [format!("GET /v2/cache/x/app/manifests/{}?ns={ns}", desc.digest)]);
    assert!(upstream.asked.lock().is_empty());
}

#[tokio::test]
async fn mirrors_that_fail_or_lie_are_passed_over() {
    let body = b"the layer".to_vec();
    let desc = Descriptor::of(media::OCI_MANIFEST, MANIFEST);
    let layer = Descriptor::of(media::OCI_LAYER, &body);
    let broken = Hostile::start(|_, _| status(500)).await;
    let lies = Hostile::start(|_, _| ok(r#"{"schemaVersion":2,"lie":1}"#)).await;
    let served = body.clone();
    let upstream = Hostile::start(move |asked, _| match asked.target.contains("/blobs/") {
        true => ok(served.clone()),
        false => ok(MANIFEST),
    })
    .await;
    let repo = with_mirrors(&upstream.host, &["127.0.0.1:1", &broken.host, &lies.host]);
    assert_eq!(repo.manifest(&desc).await.unwrap(), MANIFEST);
    assert_eq!(broken.asked.lock().len(), 1, "a mirror gets one try");
    assert_eq!(all(repo.blob(&layer, 0).await.unwrap()).await.unwrap(), body);
}

#[tokio::test]
async fn pushes_never_go_to_mirrors() {
    let mirror = Hostile::start(|_, _| ok("")).await;
    let upstream = Hostile::start(|_, _| status(404)).await;
    let repo = with_mirrors(&upstream.host, &[&mirror.host]);
    assert!(!repo.has_blob(&Descriptor::new(media::OCI_LAYER, Digest::of("x"), 1)).await.unwrap());
    assert!(mirror.asked.lock().is_empty());
}

#[tokio::test]
async fn the_registrys_own_error_is_the_one_that_is_told() {
    let mirror = Hostile::start(|_, _| status(500)).await;
    let upstream = Hostile::start(|_, _| status(404)).await;
    let repo = with_mirrors(&upstream.host, &[&mirror.host]);
    let error = repo.resolve(repo.name()).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains(&upstream.host), "{error}");
}

#[tokio::test]
async fn what_a_mirror_does_not_know_is_told_when_the_registry_cannot_be_reached() {
    let broken = Hostile::start(|_, _| status(500)).await;
    let mirror = Hostile::start(|_, _| status(404)).await;
    let repo = with_mirrors("127.0.0.1:1", &[&broken.host, &mirror.host]);
    let error = repo.resolve(repo.name()).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains(&mirror.host), "{error}");
}

#[tokio::test]
async fn insecure_means_https_or_http() {
    let plain = Hostile::start(|_, _| ok(MANIFEST)).await;
    let host = HostConfig { insecure: true, ..HostConfig::default() };
    let hosts = BTreeMap::from([(plain.host.clone(), host)]);
    let registry =
        Registry::new(RegistryConfig { hosts, retry: quick(), ..RegistryConfig::default() }).unwrap();
    let repo = registry.repository(&plain.name("app"), Arc::new(Anonymous), RepoOptions::default()).unwrap();
    let desc = Descriptor::of(media::OCI_MANIFEST, MANIFEST);
    assert_eq!(repo.manifest(&desc).await.unwrap(), MANIFEST);
    assert!(repo.has_manifest(&desc).await.unwrap());
}
