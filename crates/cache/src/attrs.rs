//! Attributes of caches, as `--cache-to` and `--cache-from` carry them.

use std::collections::BTreeMap;

use rbuild_digest::Digest;
use rbuild_oci::{Compression, CompressionOptions, ImageRef};

use crate::error::{CacheError, Result};
use crate::export::Mode;

/// Attributes of one cache; each is taken once, and what is left over at the end is an error.
#[derive(Debug)]
pub(crate) struct Attrs {
    kind: String,
    left: BTreeMap<String, String>,
}

impl Attrs {
    pub(crate) fn new(kind: &str, attrs: &BTreeMap<String, String>) -> Self {
        Self { kind: kind.to_owned(), left: attrs.clone() }
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.left.remove(name).filter(|value| !value.is_empty())
    }

    /// A switch; an empty value is on, as Go's flags have it.
    pub(crate) fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.left.remove(name) else { return Ok(default) };
        match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(self.bad(name, &value, "expected true or false")),
        }
    }

    /// A name in a registry; `latest` if it has no tag.
    pub(crate) fn reference(&mut self) -> Result<(String, ImageRef)> {
        let text = self.take("ref").ok_or(CacheError::Missing { kind: "registry", name: "ref" })?;
        let name = ImageRef::parse(&text).map_err(|error| self.bad("ref", &text, &error.to_string()))?;
        Ok((text, name.tag_or_latest()))
    }

    pub(crate) fn digest(&mut self) -> Result<Option<Digest>> {
        let Some(text) = self.take("digest") else { return Ok(None) };
        Digest::parse(&text).map(Some).map_err(|error| self.bad("digest", &text, &error.to_string()))
    }

    pub(crate) fn mode(&mut self) -> Result<Mode> {
        match self.take("mode").as_deref() {
            None | Some("min") => Ok(Mode::Min),
            Some("max") => Ok(Mode::Max),
            Some(other) => Err(self.bad("mode", other, "expected min or max")),
        }
    }

    /// How layers are compressed, and whether those that are in another way are compressed again.
    pub(crate) fn compression(&mut self) -> Result<(CompressionOptions, bool)> {
        let kind = match self.take("compression") {
            None => Compression::Gzip,
            Some(text) => Compression::parse(&text)
                .ok_or_else(|| self.bad("compression", &text, "expected gzip, zstd or uncompressed"))?,
        };
        let mut options = CompressionOptions::new(kind);
        if let Some(text) = self.take("compression-level") {
            let level =
                text.parse().map_err(|_| self.bad("compression-level", &text, "expected a number"))?;
            options.level = Some(level);
        }
        Ok((options, self.flag("force-compression", false)?))
    }

    pub(crate) fn bad(&self, name: &str, value: &str, expected: &str) -> CacheError {
        CacheError::Attribute {
            kind: self.kind.clone(),
            name: name.to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// Errors: the first attribute that nobody took.
    pub(crate) fn finish(&mut self) -> Result<()> {
        match self.left.pop_first() {
            None => Ok(()),
            Some((name, _)) => Err(CacheError::UnknownAttribute { kind: self.kind.clone(), name }),
        }
    }

    /// What an import may be given although it says something about exports only: users copy one into the other.
    pub(crate) fn drop_export_attributes(&mut self) {
        for name in ["mode", "compression", "compression-level", "force-compression"] {
            self.left.remove(name);
        }
        for name in ["oci-mediatypes", "image-manifest", "ignore-error"] {
            self.left.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> Attrs {
        let map = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Attrs::new("registry", &map)
    }

    #[test]
    fn nonsense_is_named_and_nothing_is_swallowed() {
        for pairs in [
            &[("mode", "mid")][..],
            &[("compression", "lzma")],
            &[("compression-level", "much")],
            &[("force-compression", "maybe")],
            &[("digest", "sha256:x")],
            &[("reff", "a")],
        ] {
            let mut attrs = attrs(pairs);
            let taken = attrs.mode().map(drop).and_then(|()| attrs.compression().map(drop));
            let taken = taken.and_then(|()| attrs.digest().map(drop)).and_then(|()| attrs.finish());
            let error = taken.unwrap_err().to_string();
            assert!(error.contains(pairs[0].0), "{error}");
        }
        assert!(attrs(&[]).reference().unwrap_err().to_string().contains("requires ref"));
    }
}
