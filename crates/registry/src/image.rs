use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, ImageConfig, ImageRef, Index, Manifest, PlatformMatcher, media};
use reqwest::Method;
use serde::Deserialize;

use crate::endpoint::Endpoint;
use crate::transport::{Call, Failure};
use crate::{RegistryError, Repository};

/// A manifest beyond this is refused; registries themselves stop at 4 MiB.
const MAX_MANIFEST: u64 = 8 << 20;
/// An image config beyond this is refused.
const MAX_CONFIG: u64 = 8 << 20;
/// Indexes within indexes.
const MAX_NESTING: usize = 4;

const ACCEPTED: [&str; 4] =
    [media::OCI_INDEX, media::DOCKER_INDEX, media::OCI_MANIFEST, media::DOCKER_MANIFEST];

/// The manifest of one platform of an image.
#[derive(Debug, Clone)]
pub struct ResolvedManifest {
    /// Where it is.
    pub desc: Descriptor,
    /// What it says.
    pub manifest: Manifest,
    /// The same as it came, byte for byte.
    pub bytes: Vec<u8>,
}

/// The field by which a manifest says what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    #[serde(default)]
    media_type: String,
}

impl Repository {
    /// What `reference` (a tag, a digest or both; `latest` if neither) points to: an index or a manifest.
    ///
    /// Its size and digest are the registry's claim until the manifest is fetched.
    /// Errors: [`RegistryError::NotFound`]; [`RegistryError::Digest`] if a digest was asked for and another named.
    pub async fn resolve(&self, reference: &ImageRef) -> Result<Descriptor, RegistryError> {
        let what = reference.tag_or_latest().to_string();
        let expected = reference.digest();
        let name = match expected {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or("latest").to_owned(),
        };
        self.pull(|endpoint| {
            let (this, what, name) = (self.clone(), what.clone(), name.clone());
            async move { this.resolve_at(&endpoint, &name, expected, &what).await }
        })
        .await
    }

    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        name: &str,
        expected: Option<Digest>,
        what: &str,
    ) -> Result<Descriptor, Failure> {
        let call = self.manifest_call(endpoint, Method::HEAD, name, what)?;
        match endpoint.expect(call).await {
            Ok(head) => {
                let header = |name: &str| head.headers().get(name).and_then(|value| value.to_str().ok());
                let digest = header("docker-content-digest").and_then(|text| Digest::parse(text).ok());
                let size =
                    header("content-length").and_then(|text| text.parse::<u64>().ok()).filter(|n| *n > 0);
                let kind = header("content-type").map(plain_type).filter(|kind| is_known(kind));
                if let (Some(digest), Some(size), Some(kind)) = (digest, size, kind) {
                    check_digest(endpoint, what, expected.unwrap_or(digest), digest)?;
                    return Ok(Descriptor::new(kind, digest, size));
                }
            }
            // Some registries do not answer HEAD properly: what GET says counts.
            Err(Failure { error: RegistryError::Status { status: 400 | 405 | 406 | 501, .. }, .. }) => {}
            Err(failure) => return Err(failure),
        }
        let (media_type, bytes) = self.manifest_at(endpoint, name, expected, what).await?;
        Ok(Descriptor::of(media_type, &bytes))
    }

    /// What a tag leads to, in one question: the manifest with its descriptor.
    pub async fn tagged(&self, tag: &str) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let what = format!("{}:{tag}", self.name());
        self.pull(|endpoint| {
            let (this, what, tag) = (self.clone(), what.clone(), tag.to_owned());
            async move {
                let (media_type, bytes) = this.manifest_at(&endpoint, &tag, None, &what).await?;
                Ok((Descriptor::of(media_type, &bytes), bytes))
            }
        })
        .await
    }

    /// The bytes of a manifest or index, verified against `desc`.
    pub async fn manifest(&self, desc: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let what = format!("{}@{}", self.name(), desc.digest);
        let (digest, size) = (desc.digest, desc.size);
        self.pull(|endpoint| {
            let (this, what) = (self.clone(), what.clone());
            async move {
                let name = digest.to_string();
                let (_, bytes) = this.manifest_at(&endpoint, &name, Some(digest), &what).await?;
                // The digest is right, so whoever wrote the size was wrong: an index that lies about its entries.
                match bytes.len() as u64 == size || size == 0 {
                    true => Ok(bytes),
                    false => {
                        let (host, found) = (endpoint.host.clone(), bytes.len() as u64);
                        Err(RegistryError::Size { host, what, expected: size, found }.into())
                    }
                }
            }
        })
        .await
    }

    fn manifest_call<'a>(
        &'a self,
        endpoint: &Endpoint,
        method: Method,
        name: &str,
        what: &'a str,
    ) -> Result<Call<'a>, RegistryError> {
        let mut headers = HeaderMap::new();
        let accept = format!("{}, */*", ACCEPTED.join(", "));
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            headers.insert(ACCEPT, accept);
        }
        let url = endpoint.url(self.path(), &format!("manifests/{name}"))?;
        Ok(Call { method, url, headers, body: None, scope: self.pull_scope(), what })
    }

    async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        name: &str,
        expected: Option<Digest>,
        what: &str,
    ) -> Result<(String, Vec<u8>), Failure> {
        let response = endpoint.expect(self.manifest_call(endpoint, Method::GET, name, what)?).await?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE.as_str()).map(plain_type).unwrap_or_default();
        let claimed = header("docker-content-digest").and_then(|text| Digest::parse(text).ok());
        let bytes = endpoint.body(response, MAX_MANIFEST, what).await?;
        let found = Digest::of(&bytes);
        if let Some(expected) = expected.or(claimed) {
            check_digest(endpoint, what, expected, found)?;
        }
        let typed: Typed = serde_json::from_slice(&bytes)
            .map_err(|error| endpoint.malformed(what, format!("the manifest is not JSON: {error}")))?;
        let media_type = if typed.media_type.is_empty() { content_type } else { typed.media_type };
        Ok((media_type, bytes))
    }

    /// Follows `desc` to the manifest that suits `platforms` best.
    ///
    /// Errors: [`RegistryError::NoPlatform`]; [`RegistryError::MediaType`] for what is no image;
    /// [`RegistryError::Malformed`] for indexes nested too deep.
    pub async fn select(
        &self,
        desc: &Descriptor,
        platforms: &PlatformMatcher,
        wanted: &str,
    ) -> Result<ResolvedManifest, RegistryError> {
        let what = format!("{}@{}", self.name(), desc.digest);
        let mut desc = desc.clone();
        for _ in 0..MAX_NESTING {
            let bytes = self.manifest(&desc).await?;
            match media::kind(&desc.media_type) {
                media::Kind::Manifest => {
                    let manifest = Manifest::parse(&bytes).map_err(|error| self.malformed(&what, error))?;
                    return Ok(ResolvedManifest { desc, manifest, bytes });
                }
                media::Kind::Index => {
                    let index = Index::parse(&bytes).map_err(|error| self.malformed(&what, error))?;
                    desc = self.choose(&index, platforms, wanted, &what).await?;
                }
                _ => return Err(RegistryError::MediaType { what, media_type: desc.media_type }),
            }
        }
        Err(self.malformed(&what, format!("indexes are nested more than {MAX_NESTING} deep")))
    }

    /// The entry of an index for a platform. Entries that do not say theirs are asked, if no other does.
    async fn choose(
        &self,
        index: &Index,
        platforms: &PlatformMatcher,
        wanted: &str,
        what: &str,
    ) -> Result<Descriptor, RegistryError> {
        let images = || index.manifests.iter().filter(|entry| !entry.is_attestation());
        if let Some(best) = platforms.best(images(), |entry| entry.platform.as_ref()) {
            return Ok(best.clone());
        }
        for entry in images().filter(|entry| entry.platform.is_none()) {
            if media::is_index(&entry.media_type) {
                return Ok(entry.clone());
            }
            if !media::is_manifest(&entry.media_type) {
                continue;
            }
            let bytes = self.manifest(entry).await?;
            let Ok(manifest) = Manifest::parse(&bytes) else { continue };
            let Ok(config) = ImageConfig::parse(&self.config(&manifest).await?) else { continue };
            if platforms.matches(&config.platform) {
                return Ok(entry.clone());
            }
        }
        let mut offered: Vec<String> =
            images().filter_map(|e| Some(e.platform.as_ref()?.to_string())).collect();
        offered.truncate(30);
        let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
        Err(RegistryError::NoPlatform { what: what.to_owned(), wanted: wanted.to_owned(), offered })
    }

    /// The config blob of a manifest, verified.
    pub async fn config(&self, manifest: &Manifest) -> Result<Vec<u8>, RegistryError> {
        self.small_blob(&manifest.config, MAX_CONFIG).await
    }

    /// A small blob, whole and verified.
    ///
    /// Errors: [`RegistryError::TooLarge`] if its descriptor says more than `limit`.
    pub async fn small_blob(&self, desc: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError> {
        use futures::TryStreamExt;
        let what = format!("{}@{}", self.name(), desc.digest);
        let host = self.name().domain().to_owned();
        if desc.size > limit {
            return Err(RegistryError::TooLarge { host, what, limit });
        }
        let broken = |error: std::io::Error| RegistryError::Transport {
            host: host.clone(),
            what: what.clone(),
            reason: error.to_string(),
        };
        let stream = self.blob(desc, 0).await?;
        let bytes: Vec<u8> = stream
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
            .map_err(broken)?;
        let found = Digest::of(&bytes);
        match found == desc.digest {
            true => Ok(bytes),
            false => Err(RegistryError::Digest { host, what, expected: desc.digest, found }),
        }
    }

    fn malformed(&self, what: &str, reason: impl ToString) -> RegistryError {
        let host = self.name().domain().to_owned();
        RegistryError::Malformed { host, what: what.to_owned(), reason: reason.to_string() }
    }
}

pub(crate) fn check_digest(
    endpoint: &Endpoint,
    what: &str,
    expected: Digest,
    found: Digest,
) -> Result<(), RegistryError> {
    if expected == found {
        return Ok(());
    }
    Err(RegistryError::Digest { host: endpoint.host.clone(), what: what.to_owned(), expected, found })
}

/// A content type without its parameters.
fn plain_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_owned()
}

fn is_known(media_type: &str) -> bool {
    matches!(media::kind(media_type), media::Kind::Manifest | media::Kind::Index)
}
