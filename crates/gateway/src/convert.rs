//! Values of the gateway API, wire ⇄ ours. Everything that comes off the wire is checked here.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_api::fsutil::types::Stat;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::sourcepolicy;
use rbuild_api::pb;
use rbuild_digest::Digest;
use rbuild_frontend::{
    BuildError, DirEntry, FrontendResult, ImageQuery, ResolveMode, ResultRefs, SolveRequest, SourceMeta,
    SourceQuery, Warning,
};
use rbuild_llb::{Definition, Range, SourceInfo, SourceLocation, SourceOp, SourcePolicy};
use rbuild_oci::Platform;

use crate::{ForwardedBuild, attestation};

/// More platforms than anyone builds for at once.
const MAX_RESULT_REFS: usize = 1_000;

pub(crate) fn definition(wire: pb::Definition) -> Result<Definition, BuildError> {
    Definition::from_wire(wire).map_err(|err| BuildError::invalid(format!("invalid definition: {err}")))
}

/// To a client's frontend. Upstream's clients take for granted that every definition, a nested one too, has a source
/// map, and that no value of a map is missing, which is how an empty one is encoded.
pub(crate) fn definition_to_wire(definition: &Definition) -> pb::Definition {
    let mut wire = definition.to_wire();
    complete_source(&mut wire);
    wire
}

/// Nested definitions are as deep as `Definition::from_wire` has let in.
fn complete_source(wire: &mut pb::Definition) {
    let source = wire.source.get_or_insert_default();
    source.locations.retain(|_, places| !places.locations.is_empty());
    for nested in source.infos.iter_mut().filter_map(|info| info.definition.as_mut()) {
        complete_source(nested);
    }
}

/// A definition without ops stands for scratch.
fn optional_definition(wire: Option<pb::Definition>) -> Result<Option<Definition>, BuildError> {
    wire.filter(|def| !def.def.is_empty()).map(definition).transpose()
}

pub(crate) fn solve_request(wire: wire::SolveRequest) -> Result<SolveRequest, BuildError> {
    let policies = policies(&wire.source_policies)?;
    let inputs = (wire.frontend_inputs.into_iter())
        .map(|(name, def)| Ok((name, definition(def)?)))
        .collect::<Result<_, BuildError>>()?;
    Ok(SolveRequest {
        definition: optional_definition(wire.definition)?,
        frontend: wire.frontend,
        options: wire.frontend_opt,
        inputs,
        cache_imports: wire.cache_imports.into_iter().map(|entry| (entry.r#type, entry.attrs)).collect(),
        policies,
        evaluate: wire.evaluate,
    })
}

fn policies(wire: &[sourcepolicy::Policy]) -> Result<Vec<SourcePolicy>, BuildError> {
    let compiled = wire.iter().map(SourcePolicy::from_wire).collect::<Result<_, _>>();
    compiled.map_err(|error| BuildError::invalid(error.to_string()).fault(rbuild_frontend::Fault::Policy))
}

fn resolve_mode(text: &str) -> Result<ResolveMode, BuildError> {
    match text {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::ForcePull),
        "local" => Ok(ResolveMode::PreferLocal),
        other => Err(BuildError::invalid(format!(
            "unknown resolve mode `{other}`: expected `default`, `pull` or `local`"
        ))),
    }
}

fn platform(wire: Option<pb::Platform>) -> Option<Platform> {
    wire.map(|platform| rbuild_llb::platform_from_wire(&platform))
}

pub(crate) fn image_query(wire: wire::ResolveImageConfigRequest) -> Result<ImageQuery, BuildError> {
    let oci_layout = match wire.resolver_type {
        0 => None,
        1 => Some((wire.session_id, wire.store_id)),
        other => return Err(BuildError::invalid(format!("unknown resolver type {other}"))),
    };
    Ok(ImageQuery {
        reference: wire.r#ref,
        platform: platform(wire.platform),
        mode: resolve_mode(&wire.resolve_mode)?,
        log_name: wire.log_name,
        want_config: true,
        oci_layout,
        policies: policies(&wire.source_policies)?,
    })
}

pub(crate) fn source_query(wire: wire::ResolveSourceMetaRequest) -> Result<SourceQuery, BuildError> {
    let source = wire.source.ok_or_else(|| BuildError::invalid("resolve source: no source was given"))?;
    let image = wire.image.as_ref();
    // What the capabilities do not promise.
    for (asked, what) in [
        (image.is_some_and(|image| image.attestation_chain), "the attestation chain of an image"),
        (image.is_some_and(|image| !image.resolve_attestations.is_empty()), "attestations of an image"),
        (wire.git.is_some_and(|git| git.return_object), "the commit object of a repository"),
        (wire.http.is_some_and(|http| http.checksum_request.is_some()), "another checksum of a download"),
    ] {
        if asked {
            return Err(BuildError::unimplemented(format!(
                "resolve source: {what} is not looked up by rbuildd"
            )));
        }
    }
    Ok(SourceQuery {
        source: SourceOp { identifier: source.identifier, attrs: source.attrs },
        platform: platform(wire.platform),
        mode: resolve_mode(&wire.resolve_mode)?,
        log_name: wire.log_name,
        want_config: !wire.image.is_some_and(|image| image.no_config),
        policies: policies(&wire.source_policies)?,
    })
}

pub(crate) fn source_meta(meta: SourceMeta) -> wire::ResolveSourceMetaResponse {
    wire::ResolveSourceMetaResponse {
        source: Some(pb::SourceOp { identifier: meta.source.identifier, attrs: meta.source.attrs }),
        image: meta.image.map(|image| wire::ResolveSourceImageResponse {
            digest: image.digest.to_string(),
            config: image.config,
            attestation_chain: None,
        }),
        git: meta.git.map(|git| wire::ResolveSourceGitResponse {
            checksum: git.object,
            r#ref: git.reference,
            commit_checksum: git.commit,
            ..Default::default()
        }),
        http: meta.http.map(|(digest, filename, modified)| wire::ResolveSourceHttpResponse {
            checksum: digest.to_string(),
            filename,
            last_modified: modified.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            checksum_response: None,
        }),
    }
}

pub(crate) fn result_to_wire(build: &ForwardedBuild, result: FrontendResult, arrays: bool) -> wire::Result {
    let as_ref = |reference: Option<rbuild_frontend::SharedRef>| {
        // Scratch has an empty definition rather than none: a map's value must not be empty, see above.
        let def = reference.as_ref().map(|r| definition_to_wire(&r.definition())).unwrap_or_default();
        wire::Ref { id: build.keep(reference), def: Some(def) }
    };
    let refs = match result.refs {
        ResultRefs::Single(reference) if arrays => wire::result::Result::Ref(as_ref(reference)),
        ResultRefs::Single(reference) => wire::result::Result::RefDeprecated(build.keep(reference)),
        ResultRefs::Named(refs) if arrays => {
            let refs = refs.into_iter().map(|(name, reference)| (name, as_ref(reference))).collect();
            wire::result::Result::Refs(wire::RefMap { refs })
        }
        ResultRefs::Named(refs) => {
            let refs = refs.into_iter().map(|(name, reference)| (name, build.keep(reference))).collect();
            wire::result::Result::RefsDeprecated(wire::RefMapDeprecated { refs })
        }
    };
    let attestations = attestation::to_wire(build, result.attestations);
    wire::Result { result: Some(refs), metadata: result.metadata, attestations }
}

pub(crate) fn result_from_wire(
    build: &ForwardedBuild,
    wire: wire::Result,
) -> Result<FrontendResult, BuildError> {
    let attestations = attestation::from_wire(build, wire.attestations)?;
    let named = |refs: BTreeMap<String, String>| {
        if refs.len() > MAX_RESULT_REFS {
            return Err(BuildError::invalid(format!("a result of {} references is too large", refs.len())));
        }
        let refs: Result<_, BuildError> =
            refs.into_iter().map(|(name, id)| Ok((name, build.reference(&id)?))).collect();
        Ok(ResultRefs::Named(refs?))
    };
    let refs = match wire.result {
        None => ResultRefs::Single(None),
        Some(wire::result::Result::RefDeprecated(id)) => ResultRefs::Single(build.reference(&id)?),
        Some(wire::result::Result::Ref(reference)) => ResultRefs::Single(build.reference(&reference.id)?),
        Some(wire::result::Result::RefsDeprecated(map)) => named(map.refs)?,
        Some(wire::result::Result::Refs(map)) => {
            named(map.refs.into_iter().map(|(name, reference)| (name, reference.id)).collect())?
        }
    };
    Ok(FrontendResult { refs, metadata: wire.metadata, scans: BTreeMap::new(), attestations })
}

pub(crate) fn warning(wire: wire::WarnRequest) -> Result<Warning, BuildError> {
    let vertex = match wire.digest.as_str() {
        "" => None,
        text => Some(Digest::parse(text).map_err(|err| BuildError::invalid(format!("warning: {err}")))?),
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let location = match wire.info {
        None => None,
        Some(info) => {
            let info = SourceInfo::from_wire(&info)
                .map_err(|err| BuildError::invalid(format!("warning: invalid source: {err}")))?;
            Some(SourceLocation {
                info: Arc::new(info),
                ranges: wire.ranges.iter().map(Range::from_wire).collect(),
            })
        }
    };
    Ok(Warning {
        vertex,
        level: wire.level,
        short: text(wire.short),
        detail: wire.detail.into_iter().map(text).collect(),
        url: wire.url,
        location,
    })
}

pub(crate) fn dir_entry(entry: DirEntry) -> Stat {
    Stat {
        path: entry.path,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: i64::try_from(entry.size).unwrap_or(i64::MAX),
        mod_time: entry.mtime_ns,
        linkname: entry.link_name,
        devmajor: entry.dev_major,
        devminor: entry.dev_minor,
        xattrs: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use rbuild_llb::SourceMap;

    use super::*;

    #[test]
    fn source_maps_are_there_and_have_no_empty_places() {
        let digest = Digest::of("op");
        let bare = || Definition { ops: Vec::new(), metadata: BTreeMap::new(), source: None };
        let info = SourceInfo {
            filename: "Dockerfile".into(),
            data: Default::default(),
            definition: Some(bare()),
            language: String::new(),
        };
        let locations = BTreeMap::from([(digest, Vec::new())]);
        let source = SourceMap { infos: vec![Arc::new(info)], locations };
        let wire = definition_to_wire(&Definition { source: Some(source), ..bare() });
        let mut outer = wire.source.unwrap();
        assert!(outer.locations.is_empty());
        assert!(outer.infos.remove(0).definition.unwrap().source.is_some());
    }
}
