use std::collections::HashMap;

use prost_types::Timestamp;
use rbuild_api::moby::buildkit::v1::{StatusResponse, Vertex, VertexStatus};
use rbuild_api::otlp::any_value::Value;
use rbuild_api::otlp::span::SpanKind;
use rbuild_api::otlp::status::StatusCode;
use rbuild_api::otlp::{AnyValue, KeyValue, Span, Status};

use crate::context::random_id;

/// Spans of one build. More are counted only: nobody looks at more, and a trace is in memory while it is written.
const MAX_SPANS: usize = 20_000;
/// Bytes of an error or a name in a span.
const MAX_TEXT: usize = 2 << 10;

/// Makes the spans of a build of its events, which may come in any pieces.
///
/// The build is one span, below it is one for each time that a vertex was worked on, and below that one for each part of
/// the work that was reported (the transfer of files, of a layer).
#[derive(Debug)]
pub struct BuildSpans {
    trace_id: [u8; 16],
    build: [u8; 8],
    vertices: HashMap<String, Seen>,
    spans: Vec<Span>,
    dropped: u64,
}

/// The last run of a vertex.
#[derive(Debug)]
struct Seen {
    span_id: [u8; 8],
    name: String,
    started: u64,
    ended: bool,
}

impl BuildSpans {
    pub(crate) fn new(trace_id: [u8; 16], build: [u8; 8]) -> Self {
        Self { trace_id, build, vertices: HashMap::new(), spans: Vec::new(), dropped: 0 }
    }

    /// Takes more events, in their order.
    pub fn add(&mut self, status: &StatusResponse) {
        status.vertexes.iter().for_each(|vertex| self.vertex(vertex));
        status.statuses.iter().for_each(|status| self.part(status));
    }

    fn vertex(&mut self, vertex: &Vertex) {
        let Some(started) = vertex.started.as_ref().map(nanos) else { return };
        let new = || Seen { span_id: random_id(), name: clipped(&vertex.name), started, ended: false };
        let seen = self.vertices.entry(vertex.digest.clone()).or_insert_with(new);
        if seen.started != started {
            *seen = new();
        }
        let Some(completed) = &vertex.completed else { return };
        if std::mem::replace(&mut seen.ended, true) {
            return;
        }
        let mut attributes = vec![text("vertex", &vertex.digest)];
        if vertex.cached {
            attributes.push(attribute("cached", Value::BoolValue(true)));
        }
        let span = Span {
            trace_id: self.trace_id.to_vec(),
            span_id: seen.span_id.to_vec(),
            parent_span_id: self.build.to_vec(),
            name: seen.name.clone(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: started,
            end_time_unix_nano: nanos(completed).max(started),
            attributes,
            status: Some(outcome(&vertex.error)),
            ..Span::default()
        };
        self.push(span);
    }

    fn part(&mut self, status: &VertexStatus) {
        let (Some(started), Some(completed)) = (&status.started, &status.completed) else { return };
        let parent = self.vertices.get(&status.vertex).map_or(self.build, |seen| seen.span_id);
        let mut attributes = Vec::new();
        for (name, number) in [("current", status.current), ("total", status.total)] {
            if number != 0 {
                attributes.push(attribute(name, Value::IntValue(number)));
            }
        }
        let name = if status.id.is_empty() { &status.name } else { &status.id };
        self.push(Span {
            trace_id: self.trace_id.to_vec(),
            span_id: random_id::<8>().to_vec(),
            parent_span_id: parent.to_vec(),
            name: clipped(name),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: nanos(started),
            end_time_unix_nano: nanos(completed).max(nanos(started)),
            attributes,
            ..Span::default()
        });
    }

    fn push(&mut self, span: Span) {
        match self.spans.len() < MAX_SPANS {
            true => self.spans.push(span),
            false => self.dropped += 1,
        }
    }

    /// All spans but the build's own. A vertex that never ended ends with the build.
    pub(crate) fn finish(mut self, end: u64) -> (Vec<Span>, u64) {
        let open: Vec<_> = self.vertices.drain().filter(|(_, seen)| !seen.ended).collect();
        for (digest, seen) in open {
            let span = Span {
                trace_id: self.trace_id.to_vec(),
                span_id: seen.span_id.to_vec(),
                parent_span_id: self.build.to_vec(),
                name: seen.name,
                kind: SpanKind::Internal.into(),
                start_time_unix_nano: seen.started,
                end_time_unix_nano: end.max(seen.started),
                attributes: vec![text("vertex", &digest)],
                status: Some(outcome("ended with its build")),
                ..Span::default()
            };
            self.push(span);
        }
        (self.spans, self.dropped)
    }
}

/// How it ended; an empty error is none.
pub(crate) fn outcome(error: &str) -> Status {
    let code = if error.is_empty() { StatusCode::Unset } else { StatusCode::Error };
    Status { message: clipped(error), code: code.into() }
}

pub(crate) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(clipped(value)))
}

fn clipped(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Nanoseconds since 1970; 0 for what is before.
fn nanos(time: &Timestamp) -> u64 {
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(time.seconds), u64::try_from(time.nanos)) else { return 0 };
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 5 })
    }

    fn vertex(name: &str, started: Option<i64>, completed: Option<i64>) -> StatusResponse {
        let vertex = Vertex {
            digest: format!("sha256:{name}"),
            name: name.into(),
            started: started.and_then(at),
            completed: completed.and_then(at),
            ..Vertex::default()
        };
        StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
    }

    fn part(of: &str, id: &str, completed: Option<i64>) -> StatusResponse {
        let status = VertexStatus {
            id: id.into(),
            vertex: format!("sha256:{of}"),
            current: 7,
            started: at(1),
            completed: completed.and_then(at),
            ..VertexStatus::default()
        };
        StatusResponse { statuses: vec![status], ..StatusResponse::default() }
    }

    fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
        spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name}"))
    }

    #[test]
    fn each_run_of_a_vertex_is_a_span_and_parts_are_below_it() {
        let mut spans = BuildSpans::new([1; 16], [2; 8]);
        for event in [
            vertex("known", None, None),
            vertex("copy", Some(1), None),
            part("copy", "transfer", None),
            part("copy", "transfer", Some(2)),
            vertex("copy", Some(1), Some(3)),
            vertex("copy", Some(1), Some(3)),
            vertex("copy", Some(4), None),
            vertex("copy", Some(4), Some(5)),
            part("nobody", "lost", Some(2)),
        ] {
            spans.add(&event);
        }
        let (spans, dropped) = spans.finish(9);
        assert_eq!((spans.len(), dropped), (4, 0), "{spans:#?}");
        let first = named(&spans, "copy");
        assert_eq!((first.start_time_unix_nano, first.end_time_unix_nano), (1_000_000_005, 3_000_000_005));
        assert_eq!(first.parent_span_id, [2; 8]);
        assert_eq!(named(&spans, "transfer").parent_span_id, first.span_id);
        assert_eq!(named(&spans, "lost").parent_span_id, [2; 8]);
        assert!(spans.iter().all(|span| span.trace_id == [1; 16]));
    }

    #[test]
    fn a_vertex_that_never_ended_ends_with_its_build() {
        let mut spans = BuildSpans::new([1; 16], [2; 8]);
        spans.add(&vertex("run", Some(1), None));
        let (spans, _) = spans.finish(2_000_000_000);
        assert_eq!(spans[0].end_time_unix_nano, 2_000_000_000);
        assert_eq!(spans[0].status.as_ref().unwrap().code(), StatusCode::Error);
    }

    #[test]
    fn spans_are_bounded_and_the_rest_is_counted() {
        let mut spans = BuildSpans::new([1; 16], [2; 8]);
        for index in 0..MAX_SPANS + 3 {
            spans.add(&part("x", &index.to_string(), Some(2)));
        }
        let (spans, dropped) = spans.finish(9);
        assert_eq!((spans.len(), dropped), (MAX_SPANS, 3));
    }
}
