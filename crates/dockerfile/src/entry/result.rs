use std::collections::BTreeMap;

use rbuild_frontend::{
    Bridge, BuildError, ErrorCode, FrontendResult, ResultRefs, ScanTarget, SharedRef, SolveRequest,
};
use rbuild_llb::{Definition, MarshalOptions, State};
use rbuild_oci::Platform;
use serde_json::json;

use super::request::BuildRequest;
use crate::lower::LoweredStage;
use crate::{CompileError, CompileOptions};

/// One platform's result.
pub(super) struct Platformed {
    pub(super) platform: Platform,
    pub(super) lowered: LoweredStage,
    pub(super) reference: Option<SharedRef>,
    pub(super) scans: Vec<ScanTarget>,
}

/// The definition of a lowered target.
pub(super) fn definition(
    lowered: &LoweredStage,
    options: &CompileOptions,
) -> Result<Definition, CompileError> {
    marshal(&lowered.state, options)
}

fn marshal(state: &State, options: &CompileOptions) -> Result<Definition, CompileError> {
    let marshal = MarshalOptions { platform: options.target_platform.clone(), ..MarshalOptions::default() };
    state.marshal(&marshal).map_err(|error| CompileError::new(error.to_string()))
}

/// The definitions of what lists of packages tell of besides the target.
pub(super) fn scans(
    lowered: &LoweredStage,
    options: &CompileOptions,
) -> Result<Vec<ScanTarget>, CompileError> {
    let target = |(name, state): &(String, State)| {
        Ok(ScanTarget { name: name.clone(), definition: marshal(state, options)? })
    };
    lowered.scans.iter().map(target).collect()
}

/// Hands a definition to the daemon.
pub(super) async fn solve(
    bridge: &dyn Bridge,
    definition: Definition,
) -> Result<Option<SharedRef>, BuildError> {
    if definition.is_scratch() {
        return Ok(None);
    }
    let request = SolveRequest { definition: Some(definition), ..SolveRequest::default() };
    match bridge.solve(request).await?.refs {
        ResultRefs::Single(reference) => Ok(reference),
        ResultRefs::Named(_) => {
            Err(BuildError::new(ErrorCode::Internal, "a definition was solved to several references"))
        }
    }
}

/// Puts the platforms' results together.
pub(super) fn assemble(parts: Vec<Platformed>, build: &BuildRequest) -> Result<FrontendResult, BuildError> {
    let mut metadata = BTreeMap::new();
    let mut named = BTreeMap::new();
    let mut single = None;
    let mut platforms = Vec::new();
    let mut scans = BTreeMap::new();
    for part in parts {
        let id = part.platform.to_string();
        let suffix = if build.multi_platform { format!("/{id}") } else { String::new() };
        metadata.insert(format!("containerimage.config{suffix}"), part.lowered.image.to_json());
        if let Some(base) = &part.lowered.base {
            metadata.insert(format!("containerimage.base.config{suffix}"), base.to_json());
        }
        let platform = serde_json::to_value(&part.platform)
            .map_err(|error| BuildError::new(ErrorCode::Internal, error.to_string()))?;
        platforms.push(json!({ "ID": id, "Platform": platform }));
        if !part.scans.is_empty() {
            let name = if build.multi_platform { id.clone() } else { String::new() };
            scans.insert(name, part.scans);
        }
        if build.multi_platform {
            named.insert(id, part.reference);
        } else {
            single = part.reference;
        }
    }
    metadata.insert("refs.platforms".to_owned(), json!({ "Platforms": platforms }).to_string().into_bytes());
    if let Some(epoch) = build.platforms.first().and_then(|options| options.source_date_epoch) {
        metadata.insert("source.date.epoch".to_owned(), epoch.to_string().into_bytes());
    }
    let refs = if build.multi_platform { ResultRefs::Named(named) } else { ResultRefs::Single(single) };
    Ok(FrontendResult { refs, metadata, scans, attestations: BTreeMap::new() })
}
