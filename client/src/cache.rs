//! Caches elsewhere: `--cache-from`, `--cache-to`. What is in a directory of this machine goes through the session.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rbuild_api::moby::buildkit::v1::{CacheOptions, CacheOptionsEntry};
use rbuild_digest::Digest;
use rbuild_oci::{Descriptor, Index, Manifest, media};
use rbuild_session::client::ContentStores;

use crate::errors::CommandError;
use crate::run::write_file;
use crate::spec;

/// Name of the index in a directory of OCI layout.
const INDEX: &str = "index.json";
/// What a build's answer calls the descriptor of an exported cache.
const MANIFEST_KEY: &str = "cache.manifest";
const DEFAULT_TAG: &str = "latest";
const TYPES: [&str; 5] = ["registry", "local", "inline", "s3", "gha"];
/// What a run of GitHub Actions has; the last where it uses the second interface of the cache service.
const GHA_VARIABLES: [(&str, &str); 3] =
    [("token", "ACTIONS_RUNTIME_TOKEN"), ("url", "ACTIONS_CACHE_URL"), ("url_v2", "ACTIONS_RESULTS_URL")];
/// What S3's own tools take from the environment; keys last, since they go together.
const S3_VARIABLES: [(&str, &str); 5] = [
    ("bucket", "AWS_BUCKET"),
    ("region", "AWS_REGION"),
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("session_token", "AWS_SESSION_TOKEN"),
];

/// Caches of one build.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    /// For the request.
    pub(crate) options: CacheOptions,
    /// For the session.
    pub(crate) stores: ContentStores,
    exported: Vec<LocalExport>,
}

/// A directory that takes a cache.
#[derive(Debug)]
struct LocalExport {
    dir: PathBuf,
    tag: String,
    reset: bool,
}

impl Caches {
    /// Reads both flags. Errors: a spec that makes no sense, a directory that holds no cache.
    pub(crate) fn parse(from: &[String], to: &[String]) -> Result<Self, CommandError> {
        let mut caches = Self::default();
        for text in from {
            let mut entry = entry("--cache-from", text)?;
            if entry.r#type == "local" && !caches.import(text, &mut entry)? {
                continue;
            }
            add_environment(&mut entry, &variable);
            caches.options.imports.push(entry);
        }
        for text in to {
            let mut entry = entry("--cache-to", text)?;
            if entry.r#type == "local" {
                caches.export(text, &mut entry)?;
            }
            add_environment(&mut entry, &variable);
            caches.options.exports.push(entry);
        }
        Ok(caches)
    }

    /// The imports once more, as an option of the frontend: daemons of upstream take them from there.
    pub(crate) fn frontend_attribute(&self) -> Option<(String, String)> {
        let imports = self.options.imports.iter();
        let imports = imports.map(|entry| serde_json::json!({ "Type": entry.r#type, "Attrs": entry.attrs }));
        let imports: Vec<_> = imports.collect();
        let text = serde_json::Value::from(imports.clone()).to_string();
        (!imports.is_empty()).then(|| ("cache-imports".to_owned(), text))
    }

    /// Whether it is there: the first build of all has nothing to import.
    fn import(&mut self, text: &str, entry: &mut CacheOptionsEntry) -> Result<bool, CommandError> {
        let dir = directory(text, "--cache-from", &entry.attrs, "src")?;
        let tag = entry.attrs.get("tag").cloned().unwrap_or_else(|| DEFAULT_TAG.to_owned());
        if !entry.attrs.contains_key("digest") {
            let Some(index) = read_index(&dir)? else {
                crate::ui::note(&format!("no cache in {} yet", dir.display()));
                return Ok(false);
            };
            let Some(found) = index.manifests.iter().find(|entry| tag_of(entry) == Some(&tag)) else {
                let text = format!("--cache-from {text}: no cache has the tag `{tag}` in {}", dir.display());
                return Err(CommandError::usage(text));
            };
            entry.attrs.insert("digest".into(), found.digest.to_string());
        }
        let id = format!("local:{}", dir.display());
        self.stores.add_readable(id, &dir).map_err(|error| CommandError::new(error.to_string()))?;
        Ok(true)
    }

    fn export(&mut self, text: &str, entry: &mut CacheOptionsEntry) -> Result<(), CommandError> {
        let dir = directory(text, "--cache-to", &entry.attrs, "dest")?;
        let reset = match entry.attrs.remove("reset").as_deref() {
            None | Some("false" | "0") => false,
            Some("" | "true" | "1") => true,
            Some(other) => {
                let text = format!("--cache-to {text}: reset={other}: expected true or false");
                return Err(CommandError::usage(text));
            }
        };
        let tag = entry.attrs.get("tag").cloned().unwrap_or_else(|| DEFAULT_TAG.to_owned());
        let id = format!("local:{}", dir.display());
        self.stores.add_writable(id, &dir).map_err(|error| CommandError::new(error.to_string()))?;
        self.exported.push(LocalExport { dir, tag, reset });
        Ok(())
    }

    /// After the build: lets the directories' indexes lead to what was written.
    pub(crate) fn finish(&self, response: &BTreeMap<String, String>) -> Result<(), CommandError> {
        let Some(text) = response.get(MANIFEST_KEY) else { return Ok(()) };
        let desc: Descriptor = serde_json::from_str(text)
            .map_err(|error| CommandError::new(format!("the daemon's {MANIFEST_KEY}: {error}")))?;
        for export in self.exported.iter().filter(|export| blob(&export.dir, &desc.digest).exists()) {
            export.publish(&desc)?;
        }
        Ok(())
    }
}

impl LocalExport {
    fn publish(&self, desc: &Descriptor) -> Result<(), CommandError> {
        let mut index = match read_index(&self.dir)? {
            Some(index) if !self.reset => index,
            _ => Index {
                schema_version: 2,
                media_type: media::OCI_INDEX.into(),
                artifact_type: None,
                manifests: Vec::new(),
                subject: None,
                annotations: BTreeMap::new(),
            },
        };
        index.manifests.retain(|entry| tag_of(entry) != Some(&self.tag));
        index.manifests.push(desc.clone().with_annotation(media::ANNOTATION_REF_NAME, self.tag.clone()));
        let bytes = rbuild_oci::json::to_vec(&index).map_err(|error| CommandError::new(error.to_string()))?;
        write_file(&self.dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        write_file(&self.dir.join(INDEX), &bytes)?;
        if self.reset {
            self.remove_others(desc)?;
        }
        Ok(())
    }

    /// Removes blobs that the cache does not name.
    fn remove_others(&self, desc: &Descriptor) -> Result<(), CommandError> {
        let path = blob(&self.dir, &desc.digest);
        let failed = |error: std::io::Error| CommandError::new(format!("{}: {error}", path.display()));
        let bytes = std::fs::read(&path).map_err(failed)?;
        let mut keep = HashSet::from([desc.digest.hex()]);
        let named: Vec<Descriptor> = match media::is_index(&desc.media_type) {
            true => Index::parse(&bytes).map(|index| index.manifests).unwrap_or_default(),
            false => Manifest::parse(&bytes)
                .map(|manifest| manifest.layers.into_iter().chain([manifest.config]).collect())
                .unwrap_or_default(),
        };
        if named.is_empty() {
            return Ok(());
        }
        keep.extend(named.iter().map(|desc| desc.digest.hex()));
        let blobs = self.dir.join("blobs/sha256");
        for entry in std::fs::read_dir(&blobs).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| keep.contains(name)) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Adds what a service's own tools take from the environment, where the user did not write it: keys should not have to
/// stand on a command line.
fn add_environment(entry: &mut CacheOptionsEntry, variable: &dyn Fn(&str) -> Option<String>) {
    let has =
        |entry: &CacheOptionsEntry, names: &[&str]| names.iter().any(|name| entry.attrs.contains_key(*name));
    let wanted: &[(&str, &str)] = match entry.r#type.as_str() {
        "s3" if has(entry, &["access_key_id", "secret_access_key"]) => &S3_VARIABLES[..2],
        "s3" => &S3_VARIABLES,
        "gha"
            if variable("ACTIONS_CACHE_SERVICE_V2")
                .is_some_and(|value| !matches!(&*value, "0" | "false")) =>
        {
            &GHA_VARIABLES
        }
        "gha" => &GHA_VARIABLES[..2],
        _ => return,
    };
    for (name, from) in wanted {
        if !entry.attrs.contains_key(*name)
            && let Some(value) = variable(from)
        {
            entry.attrs.insert((*name).to_owned(), value);
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `type=…,key=value`, or the name of an image.
fn entry(flag: &str, text: &str) -> Result<CacheOptionsEntry, CommandError> {
    let fields = spec::csv(text)?;
    let mut attrs = BTreeMap::new();
    if fields.iter().any(|field| !field.contains('=')) {
        let [name] = &fields[..] else {
            return Err(CommandError::usage(format!("{flag} {text}: expected type=…,name=value")));
        };
        attrs.insert("ref".to_owned(), name.clone());
        return Ok(made("registry", attrs));
    }
    for field in &fields {
        let (name, value) = spec::pair(flag, field)?;
        attrs.insert(name.trim().to_lowercase(), value.to_owned());
    }
    match attrs.remove("type") {
        Some(kind) if TYPES.contains(&kind.as_str()) => Ok(made(&kind, attrs)),
        Some(kind) => Err(CommandError::usage(format!("{flag} {text}: unknown type `{kind}`"))
            .hint(format!("types are {}", TYPES.join(", ")))),
        None => Err(CommandError::usage(format!("{flag} {text}: type is missing"))),
    }
}

fn made(kind: &str, attrs: BTreeMap<String, String>) -> CacheOptionsEntry {
    let mut entry = CacheOptionsEntry { r#type: kind.to_owned(), ..Default::default() };
    entry.attrs.extend(attrs);
    entry
}

fn directory(
    text: &str,
    flag: &str,
    attrs: &BTreeMap<String, String>,
    name: &str,
) -> Result<PathBuf, CommandError> {
    let path = attrs.get(name).filter(|path| !path.is_empty());
    let missing = || CommandError::usage(format!("{flag} {text}: {name} is missing"));
    path.map(PathBuf::from).ok_or_else(missing)
}

fn blob(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

fn tag_of(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get(media::ANNOTATION_REF_NAME)
}

fn read_index(dir: &Path) -> Result<Option<Index>, CommandError> {
    let path = dir.join(INDEX);
    let failed = |error: &dyn std::fmt::Display| CommandError::new(format!("{}: {error}", path.display()));
    match std::fs::read(&path) {
        Ok(bytes) => Index::parse(&bytes).map(Some).map_err(|error| failed(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_registry_and_unknown_types_are_refused() {
        let caches = Caches::parse(&["reg.test/app:cache".into()], &["type=inline".into()]).unwrap();
        assert_eq!(caches.options.imports[0].r#type, "registry");
        assert_eq!(caches.options.imports[0].attrs["ref"], "reg.test/app:cache");
        assert_eq!(caches.options.exports[0].r#type, "inline");
        for bad in ["type=ftp,ref=x", "ref=x", "a,b", "type=local", "type=local,dest=x,reset=maybe"] {
            assert!(Caches::parse(&[], &[bad.into()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_come_from_the_environment_together_or_not_at_all() {
        let variable = |name: &str| Some(format!("${name}"));
        let mut bare = entry("--cache-to", "type=s3,bucket=b").unwrap();
        add_environment(&mut bare, &variable);
        assert_eq!(bare.attrs["bucket"], "b");
        assert_eq!(bare.attrs["secret_access_key"], "$AWS_SECRET_ACCESS_KEY");
        let mut keyed = entry("--cache-to", "type=s3,access_key_id=a,secret_access_key=s").unwrap();
        add_environment(&mut keyed, &variable);
        assert_eq!(keyed.attrs["region"], "$AWS_REGION");
        assert!(!keyed.attrs.contains_key("session_token"));
        let mut run = entry("--cache-to", "type=gha,scope=s").unwrap();
        add_environment(&mut run, &variable);
        assert_eq!(
            (&*run.attrs["token"], &*run.attrs["url_v2"]),
            ("$ACTIONS_RUNTIME_TOKEN", "$ACTIONS_RESULTS_URL")
        );
    }

    #[test]
    fn an_export_replaces_its_tag_and_a_reset_everything() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cache");
        let publish = |text: &str, spec: &str| {
            let caches = Caches::parse(&[], &[format!("type=local,dest={}{spec}", at.display())]).unwrap();
            let layer = Descriptor::of(media::OCI_LAYER_GZIP, format!("layer {text}").as_bytes());
            let manifest = Manifest {
                schema_version: 2,
                media_type: media::OCI_MANIFEST.into(),
                artifact_type: None,
                config: Descriptor::of(media::BUILDKIT_CACHE_CONFIG, b"{}"),
                layers: vec![layer.clone()],
                subject: None,
                annotations: BTreeMap::new(),
            };
            let bytes = rbuild_oci::json::to_vec(&manifest).unwrap();
            let desc = Descriptor::of(media::OCI_MANIFEST, &bytes);
            std::fs::write(blob(&at, &desc.digest), &bytes).unwrap();
            std::fs::write(blob(&at, &layer.digest), format!("layer {text}")).unwrap();
            let text = serde_json::to_string(&desc).unwrap();
            caches.finish(&BTreeMap::from([(MANIFEST_KEY.to_owned(), text)])).unwrap();
            desc.digest
        };
        publish("one", ",tag=a");
        let second = publish("two", "");
        let third = publish("three", ",tag=a");
        let tags = |index: Index| -> Vec<(String, Digest)> {
            index.manifests.iter().map(|entry| (tag_of(entry).unwrap().clone(), entry.digest)).collect()
        };
        assert_eq!(tags(read_index(&at).unwrap().unwrap()), [("latest".into(), second), ("a".into(), third)]);
        let last = publish("four", ",reset=true");
        assert_eq!(tags(read_index(&at).unwrap().unwrap()), [("latest".into(), last)]);
        assert_eq!(std::fs::read_dir(at.join("blobs/sha256")).unwrap().count(), 2);
        let caches = Caches::parse(&[format!("type=local,src={}", at.display())], &[]).unwrap();
        assert_eq!(caches.options.imports[0].attrs["digest"], last.to_string());
    }
}
