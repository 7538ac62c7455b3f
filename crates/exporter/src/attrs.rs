use std::collections::BTreeMap;

use rbuild_oci::{Compression, CompressionOptions};

use crate::annotations::{Annotations, is_annotation};
use crate::attest::AttestationForm;
use crate::{ExportError, Result};

/// Attributes of an exporter; each is taken once, and what is left over at the end is an error.
#[derive(Debug)]
pub(crate) struct Attrs {
    exporter: String,
    left: BTreeMap<String, String>,
}

impl Attrs {
    pub(crate) fn new(exporter: &str, attrs: &BTreeMap<String, String>) -> Self {
        Self { exporter: exporter.to_owned(), left: attrs.clone() }
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.left.remove(name)
    }

    /// A switch; an empty value is on, as Go's flags have it.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(self.bad(name, &value, "expected true or false")),
        }
    }

    /// A switch for something that is not there: only off is possible.
    pub(crate) fn refuse(&mut self, name: &str) -> Result<()> {
        let Some(value) = self.take(name) else { return Ok(()) };
        if matches!(value.as_str(), "false" | "0" | "f") {
            return Ok(());
        }
        Err(ExportError::Unsupported { exporter: self.exporter.clone(), name: name.to_owned(), value })
    }

    pub(crate) fn bad(&self, name: &str, value: &str, expected: &str) -> ExportError {
        ExportError::Attribute {
            exporter: self.exporter.clone(),
            name: name.to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// All annotations.
    pub(crate) fn annotations(&mut self) -> Result<Annotations> {
        let mut annotations = Annotations::default();
        let (found, left) =
            std::mem::take(&mut self.left).into_iter().partition(|(name, _)| is_annotation(name));
        self.left = left;
        let found: BTreeMap<String, String> = found;
        for (name, value) in found {
            annotations.add(&name, value)?;
        }
        Ok(annotations)
    }

    /// `source-date-epoch`, which wins over that of the build.
    pub(crate) fn epoch(&mut self) -> Result<Option<i64>> {
        let Some(text) = self.take("source-date-epoch").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => Err(self.bad("source-date-epoch", &text, "expected seconds since 1970")),
        }
    }

    /// Errors: the first attribute that nobody took.
    pub(crate) fn finish(&mut self) -> Result<()> {
        match self.left.pop_first() {
            None => Ok(()),
            Some((name, _)) => Err(ExportError::UnknownAttribute { exporter: self.exporter.clone(), name }),
        }
    }
}

/// How layers and manifests are written.
#[derive(Debug, Clone)]
pub(crate) struct ImageOptions {
    pub(crate) compression: CompressionOptions,
    pub(crate) force: bool,
    /// New layers (with `force` all) can be read piece by piece.
    pub(crate) estargz: bool,
    pub(crate) oci_types: bool,
    pub(crate) names: Vec<String>,
    pub(crate) annotations: Annotations,
    /// Wins over the build's.
    pub(crate) epoch: Option<i64>,
    /// Times in new layers are cut at the epoch.
    pub(crate) rewrite_times: bool,
    pub(crate) attestations: AttestationForm,
}

impl ImageOptions {
    /// `inline_default`: whether attestations for images only are for this output.
    pub(crate) fn take(attrs: &mut Attrs, inline_default: bool) -> Result<Self> {
        let compression = attrs.take("compression");
        let estargz = compression.as_deref() == Some("estargz");
        let kind = match compression.filter(|_| !estargz) {
            None => None,
            Some(text) => match Compression::parse(&text) {
                Some(kind) => Some(kind),
                None => return Err(ExportError::Result(format!("unsupported compression type {text}"))),
            },
        };
        let level = match attrs.take("compression-level") {
            None => None,
            Some(text) => match text.parse() {
                Ok(level) => Some(level),
                Err(_) => return Err(attrs.bad("compression-level", &text, "expected a number")),
            },
        };
        let force = attrs.flag("force-compression")?.unwrap_or(false);
        let types = attrs.flag("oci-mediatypes")?;
        let names = attrs.take("name").unwrap_or_default();
        for name in ["prefer-nondist-layers", "buildinfo"] {
            attrs.refuse(name)?;
        }
        let inline = attrs.flag("attestation-inline")?;
        let artifact = attrs.flag("oci-artifact")?;
        if (types, artifact) == (Some(false), Some(true)) {
            return Err(ExportError::Result(
                "exporter option \"oci-artifact=true\" conflicts with \"oci-mediatypes=false\"".into(),
            ));
        }
        let mut compression = CompressionOptions::new(kind.unwrap_or(Compression::Gzip));
        compression.level = level;
        Ok(Self {
            compression,
            force,
            estargz,
            oci_types: types.unwrap_or(true),
            attestations: AttestationForm {
                artifact: artifact.unwrap_or(true),
                inline: inline.unwrap_or(inline_default),
            },
            annotations: attrs.annotations()?,
            epoch: attrs.epoch()?,
            rewrite_times: attrs.flag("rewrite-timestamp")?.unwrap_or(false),
            names: names
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> Attrs {
        let map = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Attrs::new("oci", &map)
    }

    #[test]
    fn nothing_is_swallowed() {
        for pairs in [
            &[("compresion", "zstd")][..],
            &[("compression", "lzma")],
            &[("compression-level", "much")],
            &[("rewrite-timestamp", "maybe")],
            &[("source-date-epoch", "yesterday")],
            &[("annotations", "b")],
        ] {
            let mut attrs = attrs(pairs);
            let taken = ImageOptions::take(&mut attrs, false).map(drop);
            let error = taken.and_then(|()| attrs.finish()).unwrap_err().to_string();
            assert!(pairs.iter().any(|(name, _)| error.contains(name)), "{error}");
        }
    }

    #[test]
    fn zstd_goes_with_either_kind_of_media_types() {
        let mut attrs = attrs(&[("compression", "zstd"), ("oci-mediatypes", "false")]);
        assert!(!ImageOptions::take(&mut attrs, false).unwrap().oci_types);
    }

    #[test]
    fn upstream_spellings_are_read() {
        let mut attrs = attrs(&[("name", "a:1, b"), ("compression", "zstd"), ("force-compression", "")]);
        let options = ImageOptions::take(&mut attrs, false).unwrap();
        assert_eq!(options.names, ["a:1", "b"]);
        assert!(options.force && options.oci_types && options.compression.kind == Compression::Zstd);
    }
}
