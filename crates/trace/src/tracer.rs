use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message as _;
use rbuild_api::otlp::any_value::Value;
use rbuild_api::otlp::span::SpanKind;
use rbuild_api::otlp::{
    ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans, Span,
};

use crate::context::{TraceContext, random_id};
use crate::export::{ExportSettings, Exporter, SettingsError};
use crate::spans::{BuildSpans, attribute, outcome, text};
use crate::stub::Trace;

/// Bytes of spans of clients that wait for the end of one build.
const MAX_RECEIVED: usize = 4 << 20;

/// Knows which builds are traced, and takes the spans of their clients. A cheap handle; one per daemon.
#[derive(Debug, Clone)]
pub struct Tracer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    resource: Resource,
    exporter: Option<Exporter>,
    /// Traces that builds of ours are part of.
    traces: Mutex<HashMap<[u8; 16], Received>>,
}

/// What came from outside for a trace.
#[derive(Debug, Default)]
struct Received {
    /// Builds that want it.
    builds: usize,
    spans: Vec<ResourceSpans>,
    bytes: usize,
}

impl Default for Tracer {
    /// For the history only.
    fn default() -> Self {
        Self::new(vec![text("service.name", "rbuildd")], None)
    }
}

impl Tracer {
    /// Traces for the history, and to the collector that `settings` name. To be called within a runtime.
    ///
    /// Errors: the settings name files that cannot be used.
    pub fn open(settings: Option<ExportSettings>) -> Result<Self, SettingsError> {
        let Some(settings) = settings else { return Ok(Self::default()) };
        let resource = settings.resource.iter().map(|(key, value)| text(key, value)).collect();
        Ok(Self::new(resource, Some(Exporter::start(settings)?)))
    }

    fn new(attributes: Vec<KeyValue>, exporter: Option<Exporter>) -> Self {
        let resource = Resource { attributes, ..Resource::default() };
        Self { inner: Arc::new(Inner { resource, exporter, traces: Mutex::default() }) }
    }

    /// A build begins: as part of its client's trace, or of one of its own.
    pub fn begin(&self, parent: Option<TraceContext>) -> BuildTrace {
        let trace_id = parent.map_or_else(random_id, |parent| parent.trace_id);
        self.inner.traces.lock().entry(trace_id).or_default().builds += 1;
        BuildTrace { tracer: self.clone(), trace_id, span_id: random_id(), parent }
    }

    /// Takes spans from outside: passes them on, and keeps those of builds for their history.
    pub fn receive(&self, request: ExportTraceServiceRequest) {
        self.keep(&request.resource_spans);
        if let Some(exporter) = &self.inner.exporter {
            exporter.send(request.resource_spans);
        }
    }

    fn keep(&self, groups: &[ResourceSpans]) {
        let mut traces = self.inner.traces.lock();
        for group in groups {
            for scope in &group.scope_spans {
                for span in &scope.spans {
                    let id: Result<[u8; 16], _> = span.trace_id.as_slice().try_into();
                    if let Some(received) = id.ok().and_then(|id| traces.get_mut(&id)) {
                        received.add(group, scope, span);
                    }
                }
            }
        }
    }

    /// Sends what waits for the collector, unless that takes too long.
    pub async fn close(&self) {
        if let Some(exporter) = &self.inner.exporter {
            exporter.close().await;
        }
    }
}

impl Received {
    /// Spans of one sender follow each other, so they are put together again.
    fn add(&mut self, group: &ResourceSpans, scope: &ScopeSpans, span: &Span) {
        self.bytes += span.encoded_len();
        if self.bytes > MAX_RECEIVED {
            return;
        }
        if let Some(last) = self.spans.last_mut()
            && last.resource == group.resource
            && let Some(spans) = last.scope_spans.last_mut()
            && spans.scope == scope.scope
        {
            spans.spans.push(span.clone());
            return;
        }
        // The names of a sender count too: a sender of many names must not get around the bound.
        self.bytes += group.resource.as_ref().map_or(0, Resource::encoded_len)
            + scope.scope.as_ref().map_or(0, InstrumentationScope::encoded_len);
        let scope = ScopeSpans {
            scope: scope.scope.clone(),
            spans: vec![span.clone()],
            schema_url: scope.schema_url.clone(),
        };
        self.spans.push(ResourceSpans {
            resource: group.resource.clone(),
            scope_spans: vec![scope],
            schema_url: group.schema_url.clone(),
        });
    }
}

/// The trace of one build. Dropped, nothing more is kept for it.
#[derive(Debug)]
pub struct BuildTrace {
    tracer: Tracer,
    trace_id: [u8; 16],
    /// The build's own span.
    span_id: [u8; 8],
    parent: Option<TraceContext>,
}

/// How a build went, for its own span.
#[derive(Debug)]
pub struct Ending<'a> {
    /// Which build.
    pub build: &'a str,
    /// The frontend that the daemon ran; empty: none.
    pub frontend: &'a str,
    /// Milliseconds since 1970.
    pub begun_ms: i64,
    /// Milliseconds since 1970.
    pub ended_ms: i64,
    /// Why it failed.
    pub error: Option<&'a str>,
    /// What steps used and other things to know of it.
    pub attributes: Vec<(&'static str, String)>,
}

impl BuildTrace {
    /// Collects the build's events.
    pub fn spans(&self) -> BuildSpans {
        BuildSpans::new(self.trace_id, self.span_id)
    }

    /// The whole trace as it is known by now; our own part goes to the collector.
    pub fn finish(self, spans: BuildSpans, ending: &Ending<'_>) -> Trace {
        let end = nanos(ending.ended_ms);
        let (mut spans, dropped) = spans.finish(end);
        let mut attributes = vec![text("build", ending.build)];
        if !ending.frontend.is_empty() {
            attributes.push(text("frontend", ending.frontend));
        }
        attributes.extend(ending.attributes.iter().map(|(key, value)| text(key, value)));
        if dropped > 0 {
            let count = i64::try_from(dropped).unwrap_or(i64::MAX);
            attributes.push(attribute("spans.dropped", Value::IntValue(count)));
        }
        let build = Span {
            trace_id: self.trace_id.to_vec(),
            span_id: self.span_id.to_vec(),
            parent_span_id: self.parent.map(|parent| parent.span_id.to_vec()).unwrap_or_default(),
            name: "build".to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: nanos(ending.begun_ms),
            end_time_unix_nano: end,
            attributes,
            status: Some(outcome(ending.error.unwrap_or_default())),
            ..Span::default()
        };
        spans.insert(0, build);
        let scope = InstrumentationScope {
            name: "rbuild".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let ours = ResourceSpans {
            resource: Some(self.tracer.inner.resource.clone()),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        // A client that does not keep its part of the trace does not want ours either.
        let sampled = self.parent.is_none_or(|parent| parent.sampled);
        if sampled && let Some(exporter) = &self.tracer.inner.exporter {
            exporter.send(vec![ours.clone()]);
        }
        let received = self.tracer.inner.traces.lock().get(&self.trace_id).map(|kept| kept.spans.clone());
        Trace([received.unwrap_or_default(), vec![ours]].concat())
    }
}

impl Drop for BuildTrace {
    fn drop(&mut self) {
        let mut traces = self.tracer.inner.traces.lock();
        if let Some(received) = traces.get_mut(&self.trace_id) {
            received.builds -= 1;
            if received.builds == 0 {
                traces.remove(&self.trace_id);
            }
        }
    }
}

fn nanos(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(0).saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(trace_id: [u8; 16], names: &[&str]) -> ExportTraceServiceRequest {
        let span = |name: &&str| Span {
            trace_id: trace_id.to_vec(),
            span_id: vec![1; 8],
            name: (*name).to_owned(),
            ..Span::default()
        };
        let scope = ScopeSpans { spans: names.iter().map(span).collect(), ..ScopeSpans::default() };
        let group = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![group] }
    }

    fn ending<'a>() -> Ending<'a> {
        Ending {
            build: "b",
            frontend: "",
            begun_ms: 1,
            ended_ms: 2,
            error: Some("no"),
            attributes: Vec::new(),
        }
    }

    fn names(trace: &Trace) -> Vec<&str> {
        let scopes = trace.0.iter().flat_map(|group| &group.scope_spans);
        scopes.flat_map(|scope| scope.spans.iter().map(|span| span.name.as_str())).collect()
    }

    #[test]
    fn spans_of_the_client_join_those_of_its_build_and_of_no_other() {
        let tracer = Tracer::default();
        let parent = TraceContext { trace_id: [7; 16], span_id: [8; 8], sampled: true };
        let (mine, other) = (tracer.begin(Some(parent)), tracer.begin(None));
        tracer.receive(request([7; 16], &["client", "again"]));
        tracer.receive(request([9; 16], &["stranger"]));
        let spans = mine.spans();
        let trace = mine.finish(spans, &ending());
        assert_eq!(names(&trace), ["client", "again", "build"]);
        let build = &trace.0[1].scope_spans[0].spans[0];
        assert_eq!((build.trace_id.as_slice(), build.parent_span_id.as_slice()), (&[7; 16][..], &[8; 8][..]));
        assert_eq!(build.status.as_ref().unwrap().message, "no");
        let spans = other.spans();
        assert_eq!(names(&other.finish(spans, &ending())), ["build"]);
        assert!(tracer.inner.traces.lock().is_empty());
    }

    #[test]
    fn builds_of_one_trace_have_what_came_for_it() {
        let tracer = Tracer::default();
        let parent = TraceContext { trace_id: [7; 16], span_id: [8; 8], sampled: true };
        let (one, two) = (tracer.begin(Some(parent)), tracer.begin(Some(parent)));
        tracer.receive(request([7; 16], &["client"]));
        let spans = one.spans();
        assert_eq!(names(&one.finish(spans, &ending())), ["client", "build"]);
        let spans = two.spans();
        assert_eq!(names(&two.finish(spans, &ending())), ["client", "build"]);
    }

    #[test]
    fn a_client_that_sends_without_end_is_cut_off() {
        let tracer = Tracer::default();
        let parent = TraceContext { trace_id: [7; 16], span_id: [8; 8], sampled: true };
        let build = tracer.begin(Some(parent));
        let long = "x".repeat(1 << 20);
        for _ in 0..100 {
            tracer.receive(request([7; 16], &[&long]));
        }
        let spans = build.spans();
        assert_eq!(names(&build.finish(spans, &ending())).len(), 4);
    }
}
