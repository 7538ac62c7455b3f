//! Events as JSON in the shape that upstream's clients print with `--progress=rawjson`.

use base64::Engine as _;
use prost_types::Timestamp;
use rbuild_api::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use rbuild_api::pb;
use serde_json::{Map, Value, json};

fn base64(bytes: &[u8]) -> Value {
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}

fn time(at: &Timestamp) -> Value {
    let time = jiff::Timestamp::new(at.seconds, at.nanos);
    time.map_or(Value::Null, |time| time.to_string().into())
}

/// An object without its empty fields.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    };
    let kept = fields.into_iter().filter(|(_, value)| !empty(value));
    Value::Object(kept.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

fn optional(at: Option<&Timestamp>) -> Value {
    at.map_or(Value::Null, time)
}

fn vertex(vertex: &Vertex) -> Value {
    let group = vertex.progress_group.as_ref().map_or(Value::Null, |group| {
        object([("id", json!(group.id)), ("name", json!(group.name)), ("weak", json!(group.weak))])
    });
    object([
        ("digest", json!(vertex.digest)),
        ("inputs", json!(vertex.inputs)),
        ("name", json!(vertex.name)),
        ("started", optional(vertex.started.as_ref())),
        ("completed", optional(vertex.completed.as_ref())),
        ("cached", json!(vertex.cached)),
        ("error", json!(vertex.error)),
        ("progressGroup", group),
    ])
}

fn status(status: &VertexStatus) -> Value {
    let mut value = object([
        ("id", json!(status.id)),
        ("vertex", json!(status.vertex)),
        ("name", json!(status.name)),
        ("total", json!(status.total)),
        ("timestamp", optional(status.timestamp.as_ref())),
        ("started", optional(status.started.as_ref())),
        ("completed", optional(status.completed.as_ref())),
    ]);
    value["current"] = json!(status.current);
    value
}

fn log(log: &VertexLog) -> Value {
    object([
        ("vertex", json!(log.vertex)),
        ("stream", json!(log.stream)),
        ("data", base64(&log.msg)),
        ("timestamp", optional(log.timestamp.as_ref())),
    ])
}

fn position(at: Option<pb::Position>) -> Value {
    let at = at.unwrap_or_default();
    json!({"line": at.line, "character": at.character})
}

fn warning(warning: &VertexWarning) -> Value {
    let source = warning.info.as_ref().map_or(Value::Null, |info| {
        object([
            ("filename", json!(info.filename)),
            ("data", base64(&info.data)),
            ("language", json!(info.language)),
        ])
    });
    let ranges: Vec<_> = (warning.ranges.iter())
        .map(|range| json!({"start": position(range.start), "end": position(range.end)}))
        .collect();
    object([
        ("vertex", json!(warning.vertex)),
        ("level", json!(warning.level)),
        ("short", base64(&warning.short)),
        ("detail", warning.detail.iter().map(|line| base64(line)).collect()),
        ("url", json!(warning.url)),
        ("sourceInfo", source),
        ("range", ranges.into()),
    ])
}

/// One event as one line.
pub(super) fn json(event: &StatusResponse) -> Value {
    object([
        ("vertexes", event.vertexes.iter().map(vertex).collect()),
        ("statuses", event.statuses.iter().map(status).collect()),
        ("logs", event.logs.iter().map(log).collect()),
        ("warnings", event.warnings.iter().map(warning).collect()),
    ])
}
