use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_llb::{Definition, MarshalOptions, SourceInfo};
use rbuild_oci::{ImageConfig, Platform};

use crate::context::{BuildContext, LocalContext};
use crate::entry::offline_options;
use crate::lint::{Finding, LintConfig, Linter};
use crate::lower::lower;
use crate::parse;
use crate::plan::{BaseFiles, BaseImage, Missing, Plan};
use crate::source::Source;
use crate::{CompileError, CompileOptions};

/// What a Dockerfile compiles to.
#[derive(Debug, Clone)]
pub struct Lowered {
    /// The steps.
    pub definition: Definition,
    /// The config of the image as JSON.
    pub config: Vec<u8>,
    /// Warnings, one text each.
    pub warnings: Vec<String>,
}

/// Compiles a Dockerfile without asking anybody: every image is taken as an empty one for linux/amd64 with
/// nothing but the usual `PATH`, and the context as a directory without a session.
///
/// `options`: as for a build (`target`, `build-arg:X`, `platform`…); the first platform is compiled.
/// Errors: those that a build would give before its first step.
pub fn compile_offline(
    name: &str,
    text: &[u8],
    options: &BTreeMap<String, String>,
) -> Result<Lowered, CompileError> {
    let directives = parse::directives(text).unwrap_or_default();
    let lint = Linter::new(LintConfig::of(options, directives.check.as_deref())?);
    let options = offline_options(options)?;
    let source = Source::new(SourceInfo {
        filename: name.to_owned(),
        data: text.to_vec().into(),
        definition: None,
        language: "Dockerfile".to_owned(),
    });
    let parsed = parse::parse(text, &lint)?;
    let mut plan = Plan::new(&parsed, &options, Vec::new(), &lint)?;
    loop {
        let missing = plan.missing()?;
        if missing.is_empty() {
            break;
        }
        for need in missing {
            let image = Arc::new(offline_image(&need));
            for stage in &need.stages {
                plan.provide(*stage, image.clone())?;
            }
        }
    }
    let lowered = lower(&plan, &source, &options, &offline_context(), &lint)?;
    let definition = lowered.state.marshal(&marshal_options(&options, text));
    let definition = definition.map_err(|error| CompileError::new(error.to_string()))?;
    let warnings = lint.take().iter().map(Finding::short).collect();
    Ok(Lowered { definition, config: lowered.image.to_json(), warnings })
}

/// The id of the context follows from the text, so that equal files give equal bytes.
fn marshal_options(options: &CompileOptions, text: &[u8]) -> MarshalOptions {
    MarshalOptions {
        platform: options.target_platform.clone(),
        local_unique_id: Digest::of(text).hex()[..25].to_owned(),
        ..MarshalOptions::default()
    }
}

fn offline_context() -> BuildContext {
    BuildContext::Local(LocalContext {
        name: "context".to_owned(),
        session: String::new(),
        shared_key_hint: "context".to_owned(),
        step: "[internal] load build context".to_owned(),
        excludes: Vec::new(),
    })
}

fn offline_image(missing: &Missing) -> BaseImage {
    let mut config = ImageConfig::new(Platform::new("linux", "amd64"));
    config.config.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    config.rootfs.kind.clear();
    BaseImage { config: Some(config), files: BaseFiles::Image(missing.name.clone()) }
}
