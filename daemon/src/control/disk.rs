//! DiskUsage and Prune.

use std::time::Duration;

use rbuild_api::moby::buildkit::v1 as wire;
use rbuild_frontend::{BuildError, ErrorCode};
use rbuild_store::{PruneOptions, StoreError, UsageRecord};
use tonic::{Response, Status};

use super::{ControlService, Reply, ReplyStream, refuse, timestamp};

fn failed(error: &StoreError) -> Status {
    let code = if error.is_no_space() { ErrorCode::ResourceExhausted } else { ErrorCode::Unknown };
    refuse(&BuildError::new(code, error.to_string()))
}

pub(super) async fn usage(
    control: &ControlService,
    request: wire::DiskUsageRequest,
) -> Reply<wire::DiskUsageResponse> {
    if request.age_limit != 0 {
        return Err(refuse(&BuildError::unimplemented(
            "an age limit for disk usage is not supported by rbuildd",
        )));
    }
    let records = control.builder.store().usage(&request.filter).await.map_err(|error| failed(&error))?;
    let record = records.into_iter().map(to_wire).collect();
    Ok(Response::new(wire::DiskUsageResponse { record }))
}

pub(super) async fn prune(
    control: &ControlService,
    request: wire::PruneRequest,
) -> Reply<ReplyStream<wire::UsageRecord>> {
    let size = |name: &str, value: i64| {
        u64::try_from(value).map_err(|_| refuse(&BuildError::invalid(format!("prune: {name} is negative"))))
    };
    let options = PruneOptions {
        filters: request.filter,
        all: request.all,
        keep_duration: Duration::from_nanos(size("keepDuration", request.keep_duration)?),
        reserved_space: size("reservedSpace", request.reserved_space)?,
        max_used_space: size("maxUsedSpace", request.max_used_space)?,
        min_free_space: size("minFreeSpace", request.min_free_space)?,
    };
    let pruned = control.builder.store().prune(&options).await.map_err(|error| failed(&error))?;
    let records = pruned.records.into_iter().map(|record| Ok(to_wire(record)));
    Ok(Response::new(Box::pin(futures::stream::iter(records))))
}

fn to_wire(record: UsageRecord) -> wire::UsageRecord {
    wire::UsageRecord {
        id: record.id,
        mutable: record.mutable,
        in_use: record.in_use,
        size: i64::try_from(record.size).unwrap_or(i64::MAX),
        created_at: timestamp(record.created_ms),
        last_used_at: record.last_used_ms.and_then(timestamp),
        usage_count: i64::try_from(record.usage_count).unwrap_or(i64::MAX),
        description: record.description,
        record_type: record.record_type.as_str().to_owned(),
        shared: record.shared,
        parents: record.parents,
        ..Default::default()
    }
}
