//! Annotations asked for by attributes: `annotation[-<kind>][<platform>].<key>`.

use std::collections::BTreeMap;

use rbuild_oci::Platform;

use crate::{ExportError, Result};

type Map = BTreeMap<String, String>;

/// What an annotation is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Index,
    IndexDescriptor,
    Manifest,
    ManifestDescriptor,
}

/// All annotations of one export.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations {
    /// By place, platform (empty: all) and key.
    all: BTreeMap<(Place, String, String), String>,
}

/// Whether an attribute of that name is an annotation.
pub(crate) fn is_annotation(name: &str) -> bool {
    let rest = name.strip_prefix("annotation").unwrap_or_default();
    rest.starts_with(['.', '-', '[']) && rest.contains('.')
}

impl Annotations {
    /// Errors: a kind or a platform that there is not. The wording is upstream's.
    pub(crate) fn add(&mut self, name: &str, value: String) -> Result<()> {
        let invalid = |reason: String| ExportError::Result(reason);
        let malformed =
            || invalid(format!("invalid annotation `{name}`: expected annotation[-kind][platform].key"));
        let rest = name.strip_prefix("annotation").ok_or_else(malformed)?;
        // The key comes after the first dot that is not in the platform (`windows(10.0.1)/amd64`).
        let (kind, platform, key) = match rest.find(['[', '.']) {
            Some(at) if rest[at..].starts_with('[') => {
                let (platform, key) = rest[at + 1..].split_once("].").ok_or_else(malformed)?;
                (&rest[..at], Some(platform), key)
            }
            Some(at) => (&rest[..at], None, &rest[at + 1..]),
            None => return Err(malformed()),
        };
        let place = match kind {
            "" | "-manifest" => Place::Manifest,
            "-manifest-descriptor" => Place::ManifestDescriptor,
            "-index" => Place::Index,
            "-index-descriptor" => Place::IndexDescriptor,
            other => {
                return Err(invalid(format!(
                    "unrecognized annotation type {}",
                    other.trim_start_matches('-')
                )));
            }
        };
        if key.is_empty() {
            return Err(malformed());
        }
        let platform = match platform {
            None => String::new(),
            Some(text) => {
                let parsed = Platform::parse(text);
                parsed
                    .map_err(|error| invalid(format!("annotation `{name}`: {error}")))?
                    .normalize()
                    .to_string()
            }
        };
        self.all.insert((place, platform, key.to_owned()), value);
        Ok(())
    }

    /// These over those that a result brings. Errors: as of [`Self::add`]; other names are nobody's.
    pub(crate) fn over(&self, brought: &Map) -> Result<Self> {
        let mut both = Self::default();
        for (name, value) in brought.iter().filter(|(name, _)| is_annotation(name)) {
            both.add(name, value.clone())?;
        }
        both.all.extend(self.all.clone());
        Ok(both)
    }

    /// Errors: there are some for an index, and none will be made.
    pub(crate) fn check(&self, has_index: bool) -> Result<()> {
        let for_index = |(place, ..): &(Place, _, _)| matches!(place, Place::Index | Place::IndexDescriptor);
        if has_index || !self.all.keys().any(for_index) {
            return Ok(());
        }
        Err(ExportError::Result("index annotations not supported for single platform export".into()))
    }

    /// Those of a place: for all platforms, and over them those for `platform` (a result for one platform has none).
    pub(crate) fn of(&self, place: Place, platform: Option<&Platform>) -> Map {
        let platform = platform.map(|platform| platform.clone().normalize().to_string());
        let mut found = Map::new();
        for wanted in [Some(String::new()), platform].into_iter().flatten() {
            let here = self.all.iter().filter(|((at, of, _), _)| *at == place && *of == wanted);
            found.extend(here.map(|((_, _, key), value)| (key.clone(), value.clone())));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Annotations> {
        let mut all = Annotations::default();
        pairs.iter().try_for_each(|(name, value)| all.add(name, (*value).to_owned())).map(|()| all)
    }

    #[test]
    fn what_is_asked_for_wins_over_what_a_result_brings() {
        let asked = read(&[("annotation.a", "asked")]).unwrap();
        let brought =
            [("annotation.a", "brought"), ("annotation-manifest.b", "too"), ("annotations", "other")];
        let brought = brought.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = asked.over(&brought.into()).unwrap().of(Place::Manifest, None);
        assert_eq!(found.into_values().collect::<Vec<_>>(), ["asked", "too"]);
    }

    #[test]
    fn each_kind_goes_to_its_place_and_platforms_win() {
        let all = read(&[
            ("annotation.a", "all"),
            ("annotation[linux/arm64].a", "arm"),
            ("annotation-manifest-descriptor[linux/arm64].d", "1"),
            ("annotation-index.org.example.x", "2"),
            ("annotation-index-descriptor.y", "3"),
            ("annotation[windows(10.0.1)/amd64].w.v", "4"),
        ])
        .unwrap();
        let arm = Platform::parse("linux/arm64").unwrap();
        assert_eq!(all.of(Place::Manifest, Some(&arm))["a"], "arm");
        assert_eq!(all.of(Place::Manifest, None), Map::from([("a".into(), "all".into())]));
        assert_eq!(all.of(Place::ManifestDescriptor, Some(&arm))["d"], "1");
        assert!(all.of(Place::ManifestDescriptor, None).is_empty());
        assert_eq!(all.of(Place::Index, None)["org.example.x"], "2");
        assert_eq!(all.of(Place::IndexDescriptor, None)["y"], "3");
        let windows = Platform::parse("windows(10.0.1)/amd64").unwrap();
        assert_eq!(all.of(Place::Manifest, Some(&windows))["w.v"], "4");
    }

    #[test]
    fn malformed_or_misplaced_ones_are_refused() {
        for bad in ["annotation-foo.k", "annotation[linux/amd64.k", "annotation[//].k", "annotation."] {
            assert!(is_annotation(bad), "{bad}");
            assert!(read(&[(bad, "v")]).is_err(), "{bad}");
        }
        assert!(!is_annotation("annotation") && !is_annotation("annotations.k"));
        let index = read(&[("annotation-index.k", "v")]).unwrap();
        assert!(index.check(false).is_err() && index.check(true).is_ok());
    }
}
