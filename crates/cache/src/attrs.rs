//! Attributes of caches, as `--cache-to` and `--cache-from` carry them.

use std::collections::BTreeMap;
use std::time::Duration;

use rbuild_digest::Digest;
use rbuild_oci::{Compression, CompressionOptions, ImageRef};

use crate::error::{CacheError, Result};
use crate::export::Mode;

/// Attributes whose values must not be kept, shown or logged.
const SECRETS: [&str; 5] = ["access_key_id", "secret_access_key", "session_token", "token", "ghtoken"];

/// Whether the value of this attribute of a cache is nobody's business.
pub fn is_secret(attribute: &str) -> bool {
    SECRETS.contains(&attribute)
}

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

    /// Names of cache mounts that travel along.
    pub(crate) fn mounts(&mut self) -> Vec<String> {
        self.take("cache-mounts").map(|text| crate::mounts::ids(&text)).unwrap_or_default()
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
        self.ignore(&["mode", "compression", "compression-level", "force-compression"]);
        self.ignore(&["oci-mediatypes", "image-manifest", "ignore-error"]);
    }

    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.left.remove(*name);
        }
    }

    /// A length of time as Go writes it, such as `24h` or `1h30m`.
    pub(crate) fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let found = go_duration(&text);
        found.map(Some).ok_or_else(|| self.bad(name, &text, "expected a time such as 24h or 90m"))
    }
}

fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit =
            rest[end..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| end + at);
        total += number
            * match &rest[end..unit] {
                "ns" => 1e-9,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> Attrs {
        let map = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Attrs::new("registry", &map)
    }

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, ms) in
            [("24h", 86_400_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("300ms", 300), ("0", 0)]
        {
            assert_eq!(go_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "h", "1d", "-1h", "1h-", "99999999999999999999999h", "."] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
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
