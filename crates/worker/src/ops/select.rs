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

    fn name(&self) -> Vec<u8> {
        let mut name = self.path.clone().into_bytes();
        let filters = [("include", &self.options.include), ("exclude", &self.options.exclude)];
        for (word, patterns) in filters {
            for pattern in patterns {
                name.extend_from_slice(format!("\0{word}:{pattern}").as_bytes());
            }
        }
        name
    }
}

/// Digest of *which* parts are meant; `None` if the whole input is.
pub(crate) fn identity(selectors: &[Selector]) -> Option<Digest> {
    if selectors.is_empty() {
        return None;
    }
    let names: Vec<_> = selectors.iter().map(Selector::name).collect();
    Some(Digest::of(names.join(&0)))
}

/// Digest of *what* is in the parts; of the whole input if there are none. Parts are told apart by order.
pub(crate) async fn digest(input: &Ref, selectors: &[Selector]) -> Result<Option<Digest>, OpError> {
    let whole = [Selector::default()];
    let selectors = if selectors.is_empty() { &whole } else { selectors };
    let digests = selectors.iter().map(|selector| input.checksum(&selector.path, &selector.options));
    let digests = try_join_all(digests).await?;
    let texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
    Ok(Some(Digest::of(texts.join("\0"))))
}

/// More files of one input than this are not told apart: the list would weigh more than the answer is worth.
const MAX_LISTED: usize = 200_000;

/// The files behind [`digest`], if they are known without reading any.
pub(crate) async fn list(input: &Ref, selectors: &[Selector]) -> Result<Option<FileList>, OpError> {
    let whole = [Selector::default()];
    let selectors = if selectors.is_empty() { &whole } else { selectors };
    let mut files = FileList::new();
    for selector in selectors {
        match input.contents_known(&selector.path, &selector.options, MAX_LISTED).await? {
            Some(list) => files.extend(list),
            None => return Ok(None),
        }
    }
    Ok((files.len() <= MAX_LISTED).then_some(files))
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
