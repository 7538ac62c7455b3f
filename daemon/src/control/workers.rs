//! What this daemon is and can run.

use std::collections::BTreeMap;

use rbuild_api::moby::buildkit::v1 as wire;
use rbuild_api::moby::buildkit::v1::types::{BuildkitVersion, GcPolicy, WorkerRecord};
use rbuild_build::Builder;
use tonic::Response;

use super::{ControlService, Reply};
use crate::config::{Config, Network};

/// The release of upstream whose API is honoured: clients compare it before they use a feature.
const API_LEVEL: &str = "v0.31.0";
const LABELS: &str = "org.mobyproject.buildkit.worker.";

pub(super) fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "rbuild".into(),
        version: API_LEVEL.into(),
        revision: format!("rbuildd-{}", env!("CARGO_PKG_VERSION")),
        dockerfile_version: String::new(),
    }
}

/// The one worker, as `ListWorkers` and `Ping` show it.
pub(crate) fn worker_record(builder: &Builder, config: &Config) -> WorkerRecord {
    let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let mut labels: BTreeMap<String, String> = [
        ("executor", "oci".to_owned()),
        ("hostname", hostname.unwrap_or_default()),
        ("network", network(config).into()),
        ("oci.process-mode", "sandbox".into()),
        ("selinux.enabled", "false".into()),
        ("snapshotter", builder.snapshotter_name().into()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{LABELS}{name}"), value))
    .collect();
    labels.extend(config.labels.clone());
    WorkerRecord {
        id: builder.worker_id().to_owned(),
        labels,
        platforms: builder.platforms().iter().map(rbuild_llb::platform_to_wire).collect(),
        gc_policy: super::settings::gc_policies(config).into_iter().map(policy_record).collect(),
        buildkit_version: Some(version()),
        cdi_devices: Vec::new(),
    }
}

fn network(config: &Config) -> &'static str {
    match config.network {
        Network::Host => "host",
        Network::None => "none",
        Network::Bridge { .. } => "bridge",
    }
}

fn policy_record(policy: rbuild_store::GcPolicy) -> GcPolicy {
    let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    GcPolicy {
        all: policy.all,
        keep_duration: i64::try_from(policy.keep_duration.as_nanos()).unwrap_or(i64::MAX),
        reserved_space: bytes(policy.reserved_space),
        max_used_space: bytes(policy.max_used_space),
        min_free_space: bytes(policy.min_free_space),
        filters: policy.filters,
    }
}

pub(super) fn list(
    control: &ControlService,
    request: wire::ListWorkersRequest,
) -> Reply<wire::ListWorkersResponse> {
    let matches = |worker: &&WorkerRecord| {
        request.filter.is_empty() || request.filter.iter().any(|filter| worker_matches(worker, filter))
    };
    let record = control.workers.iter().filter(matches).cloned().collect();
    Ok(Response::new(wire::ListWorkersResponse { record }))
}

/// Filters as `buildctl debug workers --filter` writes them: `id==x`, `labels."k"==v`, several joined by commas.
fn worker_matches(worker: &WorkerRecord, filter: &str) -> bool {
    filter.split(',').all(|term| {
        let (field, value) = term.split_once("==").or_else(|| term.split_once("~=")).unwrap_or((term, ""));
        let field = field.trim();
        let found = match field {
            "id" | "ID" => Some(&worker.id),
            _ => field.strip_prefix("labels.").and_then(|name| worker.labels.get(name.trim_matches('"'))),
        };
        match term.contains("~=") {
            true => found.is_some_and(|found| found.contains(value.trim_matches('"'))),
            false if value.is_empty() => found.is_some(),
            false => found.is_some_and(|found| found == value.trim_matches('"')),
        }
    })
}
