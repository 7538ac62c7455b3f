//! Which part of an input an op reads, and the digest of that part.

use futures::future::try_join_all;
use rbuild_digest::Digest;
use rbuild_store::{ChecksumOptions, Ref};

use crate::error::OpError;
use crate::scope::FileList;

/// A part of an input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) path: String,
    pub(crate) options: ChecksumOptions,
}

impl Selector {
    /// One path, symlinks at its end followed.
    pub(crate) fn followed(path: impl Into<String>) -> Self {
        let options = ChecksumOptions { follow_links: true, ..ChecksumOptions::default() };
        Self { path: path.into(), options }
    }

    fn is_plain(&self) -> bool {
        !self.options.wildcard && self.options.include.is_empty() && self.options.exclude.is_empty()
    }
}

/// Digest of *which* parts are meant, by their paths as the op spells them; `None` if the whole input is.
pub(crate) fn identity(selectors: &[Selector]) -> Option<Digest> {
    if selectors.is_empty() {
        return None;
    }
    let names: Vec<_> = selectors.iter().map(|selector| selector.path.as_bytes()).collect();
    Some(Digest::of(names.join(&0)))
}

/// Digest of *what* is in the parts; of the whole input if there are none. Parts are read in the order of their paths,
/// one that lies in another not at all.
pub(crate) async fn digest(input: &Ref, selectors: &[Selector]) -> Result<Option<Digest>, OpError> {
    let parts = parts(selectors);
    let digests = parts.iter().map(|selector| input.checksum(&selector.path, &selector.options));
    let digests = try_join_all(digests).await?;
    let texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
    Ok(Some(Digest::of(texts.join("\0"))))
}

/// More files of one input than this are not told apart: the list would weigh more than the answer is worth.
const MAX_LISTED: usize = 200_000;

/// The files behind [`digest`], if they are known without reading any.
pub(crate) async fn list(input: &Ref, selectors: &[Selector]) -> Result<Option<FileList>, OpError> {
    let mut files = FileList::new();
    for selector in &parts(selectors) {
        match input.contents_known(&selector.path, &selector.options, MAX_LISTED).await? {
            Some(list) => files.extend(list),
            None => return Ok(None),
        }
    }
    Ok((files.len() <= MAX_LISTED).then_some(files))
}

/// What has to be read for `selectors`.
fn parts(selectors: &[Selector]) -> Vec<Selector> {
    if selectors.is_empty() {
        return vec![Selector::default()];
    }
    let inside = |part: &Selector, other: &Selector| {
        other.is_plain()
            && other.options.follow_links == part.options.follow_links
            && part.path.len() > other.path.len()
            && part.path.starts_with(&format!("{}/", other.path.trim_end_matches('/')))
    };
    let covered = |part: &Selector| part.is_plain() && selectors.iter().any(|other| inside(part, other));
    let mut parts: Vec<Selector> = dedupe(selectors.to_vec());
    parts.retain(|part| !covered(part));
    parts.sort_by(|a, b| a.path.cmp(&b.path));
    for part in &mut parts {
        part.path = String::from_utf8_lossy(&crate::files::clean(part.path.as_bytes())).into_owned();
    }
    parts
}

/// Without doubles, in order.
pub(crate) fn dedupe(selectors: Vec<Selector>) -> Vec<Selector> {
    let mut unique: Vec<Selector> = Vec::with_capacity(selectors.len());
    for selector in selectors {
        if !unique.contains(&selector) {
            unique.push(selector);
        }
    }
    unique
}
