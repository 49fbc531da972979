//! The spans of a request, as OpenTelemetry traces. Out of scope: exporting them.

use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, propagation::TextMapPropagator};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use std::time::{Instant, SystemTime};
use std::{collections::HashMap, sync::OnceLock};
use tracing::Span;
use tracing::field::{Empty, display};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The instrumentation scope of all spans.
pub const SCOPE: &str = "remask";
/// The first steps of a request, each of which has a span. Of later steps ever fewer have one, so
/// that a run of any length has some dozens.
const STEPS_WHOLE: u32 = 16;

/// Makes the spans inside a request; set if traces are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The target of spans that are logged and not exported.
pub const UNTRACED: &str = "remask::untraced";

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It runs the model, or concerns a request that does.
    Work,
    /// It is one of many that watch the server.
    Probe,
    /// Anything else.
    Other,
}

/// Exports spans with `tracer` from now on. Only the first call has an effect.
pub fn collect(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// The span of a request that has just arrived. It is part of the caller's trace if the headers
/// `traceparent` and `tracestate` name one (W3C Trace Context), and exported only if it does work.
pub fn arrived<'a>(id: &str, kind: Kind, header: impl Fn(&'static str) -> Option<&'a str>) -> Span {
    let span = match kind {
        Kind::Work => tracing::info_span!("request", id, trace_id = Empty, otel.kind = Empty),
        Kind::Other => tracing::info_span!(target: UNTRACED, "request", id, trace_id = Empty),
        Kind::Probe => tracing::debug_span!(target: UNTRACED, "request", id, trace_id = Empty),
    };
    if TRACER.get().is_some() {
        span.record("otel.kind", "server"); // before its context is read, which starts the span
    }
    let headers = ["traceparent", "tracestate"].into_iter();
    let headers: HashMap<String, String> =
        headers.filter_map(|key| Some((key.to_owned(), header(key)?.to_owned()))).collect();
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    let of_caller = caller.span().span_context().clone();
    if of_caller.is_valid() {
        let _ = span.set_parent(caller); // fails if traces are not exported
    }
    let own = span.context().span().span_context().clone();
    if let Some(known) = [own, of_caller].into_iter().find(opentelemetry::trace::SpanContext::is_valid) {
        span.record("trace_id", display(known.trace_id()));
    }
    span
}

/// Sets name and attributes of the span of an ended request. `failed`: by a fault of the server.
pub fn ended<const N: usize>(span: &Span, name: String, attributes: [(&'static str, String); N], failed: bool) {
    let context = span.context();
    let span = context.span();
    span.update_name(name);
    span.set_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)));
    if failed {
        span.set_status(Status::error("the log says more"));
    }
}

/// Adds counts to the span of a request.
pub fn counted<const N: usize>(span: &Span, counts: [(&'static str, usize); N]) {
    span.context().span().set_attributes(counts.map(of_count));
}

fn of_count((key, count): (&'static str, usize)) -> KeyValue {
    KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX))
}

/// The trace of a request, to which parts add their spans.
#[derive(Clone, Debug)]
pub struct Trace {
    span: Span,
    /// Set if the spans of this request are exported.
    context: Option<Context>,
}

impl Trace {
    /// The trace of the current span.
    pub fn current() -> Self {
        Self::of(Span::current())
    }

    /// The trace of a request with this span.
    pub fn of(span: Span) -> Self {
        let context = Some(span.context()).filter(|context| context.span().span_context().is_sampled());
        Self { span, context }
    }

    /// Runs `f` inside the span of the request, so that its log lines carry the id of the request.
    pub fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        self.span.in_scope(f)
    }

    /// Adds the span of a part of the request, after its end. `counts` become attributes.
    pub fn part<const N: usize>(
        &self,
        name: &'static str,
        from: Instant,
        until: Instant,
        counts: impl FnOnce() -> [(&'static str, usize); N],
    ) {
        let (Some(context), Some(tracer)) = (&self.context, TRACER.get()) else { return };
        let (now, clock) = (SystemTime::now(), Instant::now());
        let at = |instant: Instant| now.checked_sub(clock.saturating_duration_since(instant)).unwrap_or(now);
        let counts = counts().map(of_count);
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(at(from));
        let mut part = tracer.build_with_context(builder.with_attributes(counts), context);
        part.end_with_timestamp(at(until));
    }

    /// Adds the span of a step, if this step has one.
    pub fn step<const N: usize>(
        &self,
        step: u32,
        from: Instant,
        until: Instant,
        counts: impl FnOnce() -> [(&'static str, usize); N],
    ) {
        if has_span(step) {
            self.part("step", from, until, counts);
        }
    }
}

fn has_span(step: u32) -> bool {
    step.is_multiple_of((step / STEPS_WHOLE).max(1).next_power_of_two())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_steps_have_a_span_each_and_long_runs_some_dozens() {
        assert!((0..STEPS_WHOLE).all(has_span));
        let all = |steps: u32| (0..steps).filter(|step| has_span(*step)).count();
        assert!((30..50).contains(&all(64)), "{}", all(64));
        assert!(all(65_536) < 200, "{}", all(65_536));
    }
}
