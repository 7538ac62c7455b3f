use http::header::HeaderMap;
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, Index};
use reqwest::Method;
use serde::Deserialize;
use url::Url;

use crate::endpoint::Endpoint;
use crate::transport::{Call, Failure};
use crate::{RegistryError, Repository};

/// Pages of a list; endless lists end here.
const MAX_PAGES: usize = 100;
/// Bytes of a page.
const MAX_PAGE: u64 = 4 << 20;

#[derive(Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Repository {
    /// The repository's tags, as the registry sorts them.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        self.pull(|endpoint| {
            let this = self.clone();
            async move {
                let what = format!("tags of {}", this.name());
                let mut tags = Vec::new();
                for body in this.pages(&endpoint, "tags/list", &what).await? {
                    let page: TagPage = serde_json::from_slice(&body)
                        .map_err(|error| endpoint.malformed(&what, error.to_string()))?;
                    tags.extend(page.tags.unwrap_or_default());
                }
                Ok(tags)
            }
        })
        .await
    }

    /// The manifests that are about `subject` (signatures, attestations); none if the registry knows no such list
    /// and has no fall-back tag either.
    pub async fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>, RegistryError> {
        let listed = self
            .pull(|endpoint| {
                let this = self.clone();
                async move {
                    let what = format!("referrers of {}@{subject}", this.name());
                    let mut found = Vec::new();
                    for body in this.pages(&endpoint, &format!("referrers/{subject}"), &what).await? {
                        let index = Index::parse(&body)
                            .map_err(|error| endpoint.malformed(&what, error.to_string()))?;
                        found.extend(index.manifests);
                    }
                    Ok(found)
                }
            })
            .await;
        match listed {
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
        let tag = self.name().with_tag(&format!("sha256-{}", subject.hex())).map_err(|error| {
            RegistryError::Config { host: self.name().domain().to_owned(), reason: error.to_string() }
        })?;
        let desc = match self.resolve(&tag).await {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            other => other?,
        };
        let bytes = self.manifest(&desc).await?;
        Ok(Index::parse(&bytes).map(|index| index.manifests).unwrap_or_default())
    }

    async fn pages(&self, endpoint: &Endpoint, path: &str, what: &str) -> Result<Vec<Vec<u8>>, Failure> {
        let mut url = endpoint.url(self.path(), path)?;
        let mut pages = Vec::new();
        while pages.len() < MAX_PAGES {
            let call = Call {
                method: Method::GET,
                url: url.clone(),
                headers: HeaderMap::new(),
                body: None,
                scope: self.pull_scope(),
                what,
            };
            let response = endpoint.expect(call).await?;
            let link = response.headers().get("link").and_then(|value| value.to_str().ok());
            let next = link.and_then(|link| next_page(&url, link)).filter(|next| endpoint.owns(next));
            pages.push(endpoint.body(response, MAX_PAGE, what).await?);
            match next {
                Some(next) if next != url => url = next,
                _ => return Ok(pages),
            }
        }
        Err(endpoint.malformed(what, format!("more than {MAX_PAGES} pages")).into())
    }
}

/// The target of `<…>; rel="next"`.
fn next_page(base: &Url, link: &str) -> Option<Url> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.to_ascii_lowercase().contains("next").then(|| base.join(target).ok())?
}
