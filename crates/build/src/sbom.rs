//! Lists of packages: an image of the user's choice looks at the result and writes in-toto statements.
//!
//! Source: BuildKit's SBOM scanning protocol (its document of that name): the scanner finds the result and what else is to
//! be looked at in directories that variables name, and leaves one file for each statement. It runs as a step does, cached
//! like one. What it says of its subjects is taken as it is; without subjects it speaks of the result.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_exporter::Attestation;
use rbuild_frontend::{Bridge as _, BuildError, ErrorCode, ImageQuery, ResolveMode, ScanTarget};
use rbuild_llb::{
    Attached, Constraints, Definition, ExecOptions, ImageOptions, LlbError, MarshalOptions, MountOptions,
    State,
};
use rbuild_oci::{ImageConfig, ImageRef, Platform};
use rbuild_sys::{FileKind, Root};

use crate::bridge::{BuildBridge, BuildContext};
use crate::files;
use crate::provenance::Fields;
use crate::statements::{MAX_BYTES, MAX_STATEMENTS, statement};

/// Who looks unless the user says otherwise, as with upstream.
const DEFAULT_GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";
const DESTINATION: &str = "/run/out";
const SOURCE: &str = "/run/src/core/sbom";
const EXTRAS: &str = "/run/src/extras";
/// Who lists packages, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanner {
    generator: ImageRef,
    /// What the user tells it.
    settings: Vec<(String, String)>,
}

/// What a scanner said.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) attestations: Vec<Attestation>,
    /// The scan with all that it looked at.
    pub(crate) definition: Definition,
}

impl Scanner {
    /// `attest:sbom` of a request. All but `generator` is for the scanner.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Option<Self>, BuildError> {
        let Some(text) = options.get("attest:sbom") else { return Ok(None) };
        let fields = Fields::parse("attest:sbom", text)?;
        if fields.is_off()? {
            return Ok(None);
        }
        let mut generator = DEFAULT_GENERATOR.to_owned();
        let mut settings = Vec::new();
        for (name, value) in fields.0 {
            match name.as_str() {
                "generator" => generator = value,
                "type" | "disabled" => {}
                name if name.is_empty() || name.contains(['\0', '=']) => {
                    return Err(BuildError::invalid(format!("attest:sbom: `{name}` cannot be a setting")));
                }
                _ => settings.push((name, value)),
            }
        }
        let generator = ImageRef::parse(&generator).map_err(|error| {
            BuildError::invalid(format!("failed to parse sbom generator {generator}: {error}"))
        })?;
        Ok(Some(Self { generator: generator.tag_or_latest(), settings }))
    }

    /// Looks at what `target` yields.
    pub(crate) async fn scan(
        &self,
        context: &Arc<BuildContext>,
        platform: Option<&Platform>,
        target: &Definition,
        extras: &[ScanTarget],
    ) -> Result<Scanned, BuildError> {
        let native = context.worker.platforms().into_iter().next().unwrap_or_else(Platform::host);
        let bridge = BuildBridge::new(context.clone(), BTreeMap::new(), BTreeMap::new());
        let query = ImageQuery {
            reference: self.generator.to_string(),
            platform: Some(native.clone()),
            mode: ResolveMode::Default,
            log_name: format!("resolve image config for docker-image://{}", self.generator),
            want_config: true,
            oci_layout: None,
            policies: Vec::new(),
        };
        let meta = bridge.resolve_image(query).await?;
        let image = ImageConfig::parse(&meta.config)
            .map_err(|error| BuildError::invalid(format!("scanner {}: {error}", self.generator)))?;
        let name = ImageRef::parse(&meta.reference)
            .map_err(|error| BuildError::invalid(format!("scanner {}: {error}", meta.reference)))?
            .with_digest(meta.digest);
        let shown = platform.unwrap_or(&native);
        let step = format!("[{shown}] generating sbom using {}", self.generator);
        let definition = self.definition(&name, &image, &native, (target, extras), step)?;
        let output = context.solve_definition(&definition).await?;
        let attestations = match output {
            None => Vec::new(),
            Some(output) => {
                let tree = output.tree().await.map_err(|error| files::store_error(&error))?;
                let generator = self.generator.to_string();
                files::blocking(move || statements(tree.root(), &generator)).await?
            }
        };
        Ok(Scanned { attestations, definition })
    }

    fn definition(
        &self,
        name: &ImageRef,
        image: &ImageConfig,
        native: &Platform,
        (target, extras): (&Definition, &[ScanTarget]),
        step: String,
    ) -> Result<Definition, BuildError> {
        let args: Vec<String> = image.config.entrypoint.iter().chain(&image.config.cmd).cloned().collect();
        if args.is_empty() {
            return Err(BuildError::invalid(format!("scanner {} does not have cmd", self.generator)));
        }
        let unsound = |error: LlbError| BuildError::new(ErrorCode::Internal, format!("sbom: {error}"));
        let constraints = Constraints::default().platform(native.clone());
        let options = ImageOptions { constraints: constraints.clone(), ..ImageOptions::default() };
        let mut root = State::image(&name.to_string(), options).map_err(unsound)?.with_image_config(image);
        for (name, value) in [
            ("BUILDKIT_SCAN_DESTINATION", "/run/out/"),
            ("BUILDKIT_SCAN_SOURCE", SOURCE),
            ("BUILDKIT_SCAN_SOURCE_EXTRAS", EXTRAS),
        ] {
            root = root.add_env(name, value);
        }
        for (name, value) in &self.settings {
            root = root.add_env(&format!("BUILDKIT_SCAN_{name}"), value);
        }
        let read_only = |place: String, definition: &Definition| {
            let state = State::from_definition(definition).map_err(unsound)?;
            Ok(MountOptions { readonly: true, ..MountOptions::new(place, Attached::Bind(state)) })
        };
        // Images of one program may have no place for temporary files.
        let temporary = MountOptions::new("/tmp", Attached::Tmpfs { size_bytes: 0 });
        let mut mounts = vec![MountOptions::bind(DESTINATION, State::scratch()), temporary];
        mounts.push(read_only(SOURCE.to_owned(), target)?);
        for extra in extras {
            mounts.push(read_only(format!("{EXTRAS}/{}", extra.name), &extra.definition)?);
        }
        let run = root.run(ExecOptions {
            args,
            mounts,
            constraints: constraints.custom_name(step),
            ..ExecOptions::default()
        });
        let output = run.mount(DESTINATION).map_err(unsound)?;
        let marshal = MarshalOptions { platform: native.clone(), ..MarshalOptions::default() };
        output.marshal(&marshal).map_err(unsound)
    }
}

/// What a scanner left, in the order of names. Blocking.
fn statements(root: &Root, generator: &str) -> Result<Vec<Attestation>, BuildError> {
    let listed =
        root.read_dir().map_err(|error| BuildError::new(ErrorCode::Unknown, format!("sbom: {error}")))?;
    let files = listed.into_iter().filter(|entry| entry.kind == FileKind::File);
    let names = files.filter_map(|entry| entry.name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".json")).collect();
    names.sort();
    let said = |text: String| BuildError::new(ErrorCode::Unknown, format!("scanner {generator}: {text}"));
    if names.len() > MAX_STATEMENTS {
        return Err(said(format!("{} statements, at most {MAX_STATEMENTS}", names.len())));
    }
    let mut left = MAX_BYTES;
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let size = root.stat(&name).map_err(|error| said(format!("{name}: {error}")))?.size;
        left = left
            .checked_sub(size)
            .ok_or_else(|| said(format!("more than {MAX_BYTES} bytes of statements")))?;
        let bytes = files::read_file(root, &name, None)?;
        found.push(statement(name, &bytes).map_err(said)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Scanner>, BuildError> {
        Scanner::parse(&BTreeMap::from([("attest:sbom".to_owned(), text.to_owned())]))
    }

    #[test]
    fn the_scanner_gets_all_settings_but_its_name() {
        assert_eq!(Scanner::parse(&BTreeMap::new()).unwrap(), None);
        assert_eq!(parse("disabled=true").unwrap(), None);
        let default = parse("").unwrap().unwrap();
        assert_eq!(default.generator.to_string(), format!("docker.io/{DEFAULT_GENERATOR}"));
        let own = parse("type=sbom,generator=a/b,Foo=bar").unwrap().unwrap();
        assert_eq!(own.generator.to_string(), "docker.io/a/b:latest");
        assert_eq!(own.settings, [("Foo".to_owned(), "bar".to_owned())]);
        assert!(parse("generator=///").is_err());
    }

    #[test]
    fn statements_are_read_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "b.spdx.json",
            r#"{"predicateType":"p","subject":[{"name":"n","digest":{"sha256":"00"}}],"predicate":{}}"#,
        );
        write("a.spdx.json", r#"{"predicateType":"q","subject":null,"predicate":{ "x": 1 }}"#);
        write("log.txt", "no statement");
        let root = Root::open(dir.path()).unwrap();
        let found = statements(&root, "s").unwrap();
        assert_eq!((found[0].predicate_type.as_str(), found[0].subjects.len()), ("q", 0));
        assert_eq!((found[1].file_name.as_str(), found[1].subjects.len()), ("b.spdx.json", 1));
        write("c.json", "{}");
        let error = statements(&root, "s").unwrap_err().to_string();
        assert!(error.contains("scanner s: c.json is no in-toto statement"), "{error}");
    }
}
