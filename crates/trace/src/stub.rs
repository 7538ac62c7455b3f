//! The format of a trace in the history: one JSON object for each span, one after the other. Source: a peer's records
//! (`application/vnd.buildkit.otlp.json.v0`), which hold what Go's SDK calls span stubs.

use std::io::{self, Write};

use base64::Engine as _;
use rbuild_api::otlp::any_value::Value;
use rbuild_api::otlp::status::StatusCode;
use rbuild_api::otlp::{AnyValue, InstrumentationScope, KeyValue, Resource, ResourceSpans, Span};
use serde::Serialize;
use serde_json::json;

/// No value goes deeper.
const MAX_DEPTH: usize = 8;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stub<'a> {
    name: &'a str,
    span_context: Context<'a>,
    parent: Context<'a>,
    span_kind: i32,
    start_time: String,
    end_time: String,
    attributes: Vec<Attribute>,
    events: Vec<Event<'a>>,
    links: Vec<Link<'a>>,
    status: Outcome<'a>,
    dropped_attributes: u32,
    dropped_events: u32,
    dropped_links: u32,
    child_span_count: u32,
    resource: Vec<Attribute>,
    instrumentation_scope: Scope<'a>,
    instrumentation_library: Scope<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Context<'a> {
    #[serde(rename = "TraceID")]
    trace_id: String,
    #[serde(rename = "SpanID")]
    span_id: String,
    trace_flags: &'static str,
    trace_state: &'a str,
    remote: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    key: String,
    value: Typed,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Typed {
    r#type: &'static str,
    value: serde_json::Value,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Event<'a> {
    name: &'a str,
    attributes: Vec<Attribute>,
    dropped_attribute_count: u32,
    time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Link<'a> {
    span_context: Context<'a>,
    attributes: Vec<Attribute>,
    dropped_attribute_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome<'a> {
    code: u32,
    description: &'a str,
}

#[derive(Serialize, Clone, Copy)]
#[serde(rename_all = "PascalCase")]
struct Scope<'a> {
    name: &'a str,
    version: &'a str,
    #[serde(rename = "SchemaURL")]
    schema_url: &'a str,
}

/// All spans that are known of a build's trace.
#[derive(Debug)]
pub struct Trace(pub(crate) Vec<ResourceSpans>);

impl Trace {
    /// Writes it as the history keeps it.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for group in &self.0 {
            for scope in &group.scope_spans {
                for span in &scope.spans {
                    let stub = stub(group.resource.as_ref(), scope.scope.as_ref(), &scope.schema_url, span);
                    serde_json::to_writer(&mut *out, &stub)?;
                    out.write_all(b"\n")?;
                }
            }
        }
        Ok(())
    }
}

fn stub<'a>(
    resource: Option<&Resource>,
    scope: Option<&'a InstrumentationScope>,
    schema_url: &'a str,
    span: &'a Span,
) -> Stub<'a> {
    let (name, version) = scope.map_or(("", ""), |scope| (&scope.name, &scope.version));
    let scope = Scope { name, version, schema_url };
    let has_parent = span.parent_span_id.iter().any(|byte| *byte != 0);
    let parent_trace: &[u8] = if has_parent { &span.trace_id } else { &[] };
    let status = span.status.as_ref();
    Stub {
        name: &span.name,
        span_context: context(&span.trace_id, &span.span_id, &span.trace_state),
        parent: context(parent_trace, &span.parent_span_id, ""),
        span_kind: span.kind,
        start_time: time(span.start_time_unix_nano),
        end_time: time(span.end_time_unix_nano),
        attributes: attributes(&span.attributes),
        events: span.events.iter().map(event).collect(),
        links: span.links.iter().map(link).collect(),
        status: Outcome {
            // Go's SDK and the wire number these differently.
            code: match status.map(|status| status.code()) {
                None | Some(StatusCode::Unset) => 0,
                Some(StatusCode::Error) => 1,
                Some(StatusCode::Ok) => 2,
            },
            description: status.map_or("", |status| &status.message),
        },
        dropped_attributes: span.dropped_attributes_count,
        dropped_events: span.dropped_events_count,
        dropped_links: span.dropped_links_count,
        child_span_count: 0,
        resource: resource.map(|resource| attributes(&resource.attributes)).unwrap_or_default(),
        instrumentation_scope: scope,
        instrumentation_library: scope,
    }
}

fn event(event: &rbuild_api::otlp::span::Event) -> Event<'_> {
    Event {
        name: &event.name,
        attributes: attributes(&event.attributes),
        dropped_attribute_count: event.dropped_attributes_count,
        time: time(event.time_unix_nano),
    }
}

fn link(link: &rbuild_api::otlp::span::Link) -> Link<'_> {
    Link {
        span_context: context(&link.trace_id, &link.span_id, &link.trace_state),
        attributes: attributes(&link.attributes),
        dropped_attribute_count: link.dropped_attributes_count,
    }
}

/// An id that has not the right length is written as none, which readers expect in full length.
fn context<'a>(trace: &[u8], span: &[u8], state: &'a str) -> Context<'a> {
    let trace: [u8; 16] = trace.try_into().unwrap_or_default();
    let span: [u8; 8] = span.try_into().unwrap_or_default();
    let is_some = trace != [0; 16];
    Context {
        trace_id: hex::encode(trace),
        span_id: hex::encode(span),
        trace_flags: if is_some { "01" } else { "00" },
        trace_state: state,
        remote: false,
    }
}

fn time(nanos: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_string()
}

fn attributes(pairs: &[KeyValue]) -> Vec<Attribute> {
    let typed = |pair: &KeyValue| Attribute { key: pair.key.clone(), value: typed(pair.value.as_ref()) };
    pairs.iter().map(typed).collect()
}

fn typed(value: Option<&AnyValue>) -> Typed {
    let r#type = match value.and_then(|value| value.value.as_ref()) {
        None => "INVALID",
        Some(Value::BoolValue(_)) => "BOOL",
        Some(Value::IntValue(_)) => "INT64",
        Some(Value::DoubleValue(_)) => "FLOAT64",
        Some(Value::StringValue(_) | Value::BytesValue(_)) => "STRING",
        // Lists of one kind have types of their own, mixed ones and maps have none: they are kept as text.
        Some(Value::ArrayValue(array)) => match list_type(&array.values) {
            Some(r#type) => r#type,
            None => return as_text(value),
        },
        Some(Value::KvlistValue(_)) => return as_text(value),
    };
    Typed { r#type, value: value.map_or(serde_json::Value::Null, |value| plain(value, 0)) }
}

fn as_text(value: Option<&AnyValue>) -> Typed {
    let json = value.map_or(serde_json::Value::Null, |value| plain(value, 0));
    Typed { r#type: "STRING", value: json.to_string().into() }
}

fn list_type(values: &[AnyValue]) -> Option<&'static str> {
    let all = |is: fn(&Value) -> bool| values.iter().all(|value| value.value.as_ref().is_some_and(is));
    if all(|value| matches!(value, Value::StringValue(_))) {
        Some("STRINGSLICE")
    } else if all(|value| matches!(value, Value::IntValue(_))) {
        Some("INT64SLICE")
    } else if all(|value| matches!(value, Value::BoolValue(_))) {
        Some("BOOLSLICE")
    } else if all(|value| matches!(value, Value::DoubleValue(_))) {
        Some("FLOAT64SLICE")
    } else {
        None
    }
}

fn plain(value: &AnyValue, depth: usize) -> serde_json::Value {
    if depth == MAX_DEPTH {
        return json!("…");
    }
    match &value.value {
        None => json!(null),
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::BoolValue(value)) => json!(value),
        Some(Value::IntValue(number)) => json!(number),
        Some(Value::DoubleValue(number)) => json!(number),
        Some(Value::BytesValue(bytes)) => json!(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Some(Value::ArrayValue(array)) => {
            array.values.iter().map(|value| plain(value, depth + 1)).collect::<Vec<_>>().into()
        }
        Some(Value::KvlistValue(list)) => {
            let pair = |pair: &KeyValue| {
                let value = pair.value.as_ref().map_or(json!(null), |value| plain(value, depth + 1));
                (pair.key.clone(), value)
            };
            list.values.iter().map(pair).collect::<serde_json::Map<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use rbuild_api::otlp::{ArrayValue, KeyValueList, ScopeSpans, Status};

    use super::*;
    use crate::spans::attribute;

    fn written(span: Span) -> serde_json::Value {
        let scope = InstrumentationScope { name: "lib".into(), ..Default::default() };
        let spans = ScopeSpans { scope: Some(scope), spans: vec![span], ..Default::default() };
        let resource =
            Resource { attributes: vec![crate::spans::text("service.name", "x")], ..Default::default() };
        let trace =
            ResourceSpans { resource: Some(resource), scope_spans: vec![spans], ..Default::default() };
        let mut out = Vec::new();
        Trace(vec![trace]).write(&mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn spans_read_as_upstreams_do() {
        let span = Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            name: "build".into(),
            kind: 2,
            start_time_unix_nano: 1_500_000_000_123_456_789,
            end_time_unix_nano: 1_500_000_001_000_000_000,
            status: Some(Status { message: "no".into(), code: StatusCode::Error.into() }),
            ..Span::default()
        };
        let stub = written(span);
        assert_eq!(stub["SpanContext"]["TraceID"], "01".repeat(16));
        assert_eq!(stub["SpanContext"]["TraceFlags"], "01");
        assert_eq!(stub["Parent"]["SpanID"], "00".repeat(8));
        assert_eq!(stub["Parent"]["TraceID"], "00".repeat(16));
        assert_eq!(stub["StartTime"], "2017-07-14T02:40:00.123456789Z");
        assert_eq!(stub["EndTime"], "2017-07-14T02:40:01Z");
        assert_eq!(stub["Status"], serde_json::json!({"Code": 1, "Description": "no"}));
        assert_eq!(stub["Resource"][0]["Value"], serde_json::json!({"Type": "STRING", "Value": "x"}));
        assert_eq!(stub["InstrumentationLibrary"]["Name"], "lib");
    }

    #[test]
    fn values_keep_their_types_and_odd_ones_become_text() {
        let any = |value| AnyValue { value: Some(value) };
        let list = |values| Value::ArrayValue(ArrayValue { values });
        let mut deep = Value::BoolValue(true);
        for _ in 0..100 {
            deep = list(vec![any(deep)]);
        }
        let values = [
            (Value::BoolValue(true), "BOOL", json!(true)),
            (Value::IntValue(-3), "INT64", json!(-3)),
            (Value::DoubleValue(0.5), "FLOAT64", json!(0.5)),
            (list(vec![any(Value::StringValue("a".into()))]), "STRINGSLICE", json!(["a"])),
            (list(vec![any(Value::IntValue(1)), any(Value::BoolValue(true))]), "STRING", json!("[1,true]")),
            (
                Value::KvlistValue(KeyValueList { values: vec![attribute("k", Value::IntValue(1))] }),
                "STRING",
                json!("{\"k\":1}"),
            ),
            (deep, "STRING", json!("[[[[[[[[\"…\"]]]]]]]]")),
        ];
        for (value, r#type, json) in values {
            let span = Span { attributes: vec![attribute("a", value)], ..Span::default() };
            let stub = written(span);
            assert_eq!(stub["Attributes"][0]["Value"], json!({"Type": r#type, "Value": json}));
        }
    }

    #[test]
    fn ids_of_the_wrong_length_are_none() {
        let stub = written(Span { trace_id: vec![1; 3], span_id: vec![2; 99], ..Span::default() });
        assert_eq!(stub["SpanContext"]["TraceID"], "00".repeat(16));
        assert_eq!(stub["SpanContext"]["SpanID"], "00".repeat(8));
    }
}
