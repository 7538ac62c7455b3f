//! ListenBuildHistory and UpdateBuildHistory.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_api::moby::buildkit::v1 as wire;
use rbuild_build::{
    HistoryAttestation, HistoryBlob, HistoryEvent, HistoryEventKind, HistoryRecord, HistoryRefusal,
};
use rbuild_frontend::{BuildError, ErrorCode};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Code, Response, Status};

use super::history_filter::Filter;
use super::{ControlService, Reply, ReplyStream, refuse, timestamp};

/// Media types of what is kept beside a record. Source: a peer's records.
const LOG: &str = "application/vnd.buildkit.status.v0";
const ERROR: &str = "application/vnd.googeapis.google.rpc.status+proto";
const TRACE: &str = "application/vnd.buildkit.otlp.json.v0";

/// Existing builds first, oldest first; then the news, unless the client wants to leave early.
pub(super) fn listen(
    control: &ControlService,
    request: wire::BuildHistoryRequest,
) -> Reply<ReplyStream<wire::BuildHistoryEvent>> {
    let filter = Filter::parse(&request.filter).map_err(|text| refuse(&BuildError::invalid(text)))?;
    let (records, events) = control.builder.history().listen();
    let wanted = move |record: &HistoryRecord| {
        (request.r#ref.is_empty() || record.id == request.r#ref) && filter.matches(record)
    };
    let mut known: Vec<_> = records
        .into_iter()
        .filter(|record| wanted(record) && (record.is_active() || !request.active_only))
        .collect();
    if let Ok(limit) = usize::try_from(request.limit)
        && limit > 0
    {
        known.drain(..known.len().saturating_sub(limit));
    }
    let known = known.into_iter().map(|record| {
        let kind = match record.is_active() {
            true => HistoryEventKind::Started,
            false => HistoryEventKind::Complete,
        };
        Ok(event(&HistoryEvent { kind, record }))
    });
    let known = futures::stream::iter(known);
    if request.early_exit {
        return Ok(Response::new(Box::pin(known)));
    }
    let news = futures::stream::unfold(events, |mut events| async move {
        match events.recv().await {
            Ok(event) => Some((Ok(event), events)),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                let text = format!("{missed} events of the build history were missed: listen again");
                Some((Err(refuse(&BuildError::new(ErrorCode::ResourceExhausted, text))), events))
            }
        }
    });
    let news = news.filter_map(move |news| {
        let news = match news {
            Ok(news) => wanted(&news.record).then(|| Ok(event(&news))),
            Err(status) => Some(Err(status)),
        };
        std::future::ready(news)
    });
    Ok(Response::new(Box::pin(known.chain(news))))
}

pub(super) async fn update(
    control: &ControlService,
    request: wire::UpdateBuildHistoryRequest,
) -> Reply<wire::UpdateBuildHistoryResponse> {
    let history = control.builder.history();
    let id = &request.r#ref;
    let done = if request.delete {
        history.delete(id).await
    } else if request.finalize {
        history.finalize(id).await
    } else {
        history.pin(id, request.pinned).await
    };
    done.map_err(|error| {
        let code = match error {
            HistoryRefusal::Unknown(_) => ErrorCode::NotFound,
            HistoryRefusal::Running(_) => ErrorCode::InvalidArgument,
            HistoryRefusal::Taken(_) | HistoryRefusal::Log(_) | HistoryRefusal::Store(_) => {
                ErrorCode::Internal
            }
        };
        refuse(&BuildError::new(code, error.to_string()))
    })?;
    Ok(Response::new(wire::UpdateBuildHistoryResponse {}))
}

fn event(event: &HistoryEvent) -> wire::BuildHistoryEvent {
    let kind = match event.kind {
        HistoryEventKind::Started => wire::BuildHistoryEventType::Started,
        HistoryEventKind::Complete => wire::BuildHistoryEventType::Complete,
        HistoryEventKind::Deleted => wire::BuildHistoryEventType::Deleted,
    };
    wire::BuildHistoryEvent { r#type: kind.into(), record: Some(record(&event.record)) }
}

fn descriptor(blob: HistoryBlob, media_type: &str) -> wire::Descriptor {
    wire::Descriptor {
        media_type: media_type.to_owned(),
        digest: blob.digest.to_string(),
        size: i64::try_from(blob.size).unwrap_or(i64::MAX),
        annotations: Default::default(),
    }
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn record(record: &Arc<HistoryRecord>) -> wire::BuildHistoryRecord {
    let error = record.error.as_ref().map(|error| RpcStatus {
        code: if error.cancelled { Code::Cancelled } else { Code::Unknown } as i32,
        message: error.message.clone(),
        details: Vec::new(),
    });
    let exporters = record
        .exporters
        .iter()
        .map(|exporter| wire::Exporter { r#type: exporter.kind.clone(), attrs: exporter.attrs.clone() });
    wire::BuildHistoryRecord {
        r#ref: record.id.clone(),
        frontend: record.frontend.clone(),
        frontend_attrs: record.options.clone(),
        exporters: exporters.collect(),
        error,
        created_at: timestamp(record.created_ms),
        completed_at: record.completed_ms.and_then(timestamp),
        logs: record.log.map(|log| descriptor(log, LOG)),
        exporter_response: record.response.clone(),
        result: Some(result(record)),
        results: results(record),
        generation: i32::try_from(record.generation).unwrap_or(i32::MAX),
        trace: record.trace.map(|trace| descriptor(trace, TRACE)),
        pinned: record.pinned,
        num_cached_steps: count(record.tally.cached),
        num_total_steps: count(record.tally.total),
        num_completed_steps: count(record.tally.completed),
        external_error: record.error.as_ref().map(|error| descriptor(error.status, ERROR)),
        num_warnings: count(record.tally.warnings),
    }
}

/// What was exported, as far as it is an image, and what the history knows of it if there is one result.
fn result(record: &HistoryRecord) -> wire::BuildResultInfo {
    use base64::Engine as _;
    let text = record.response.get("containerimage.descriptor");
    let json = text.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    let image = json.and_then(|json| serde_json::from_slice::<rbuild_oci::Descriptor>(&json).ok());
    let image = image.map(|image| wire::Descriptor {
        media_type: image.media_type,
        digest: image.digest.to_string(),
        size: i64::try_from(image.size).unwrap_or(i64::MAX),
        annotations: image.annotations,
    });
    wire::BuildResultInfo {
        result_deprecated: image.clone(),
        attestations: record.attestations.iter().filter(|said| said.id.is_none()).map(attestation).collect(),
        results: image.into_iter().map(|image| (0, image)).collect(),
    }
}

/// What the history knows of each of several results.
fn results(record: &HistoryRecord) -> BTreeMap<String, wire::BuildResultInfo> {
    let mut results: BTreeMap<String, wire::BuildResultInfo> = BTreeMap::new();
    for said in &record.attestations {
        if let Some(id) = &said.id {
            results.entry(id.clone()).or_default().attestations.push(attestation(said));
        }
    }
    results
}

fn attestation(said: &HistoryAttestation) -> wire::Descriptor {
    let mut descriptor = descriptor(said.predicate, rbuild_oci::media::IN_TOTO);
    descriptor.annotations.insert("in-toto.io/predicate-type".into(), said.predicate_type.clone());
    descriptor
}

/// A build of which nothing is known.
pub(super) fn no_such_build(id: &str) -> Status {
    Status::not_found(format!("no such job {id}"))
}
