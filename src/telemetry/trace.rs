//! Spans of one request, for a collector of traces where there is one. Refuses to know where they are sent.

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};
use tracing::Span;
use tracing::field::{Empty, display};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The name that spans are told under.
pub const SCOPE: &str = "remask";
/// Steps of a request that each have a span; of later ones ever fewer, so that a run of any length has some dozens.
const STEPS_WHOLE: u32 = 16;

/// Makes the spans of parts, once somebody collects them.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// From now on spans are collected by what made `tracer`. The first word stands.
pub fn collect(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// The span of a request that has just arrived, in the caller's trace if `header` tells one (`traceparent`, `tracestate`: W3C Trace
/// Context). Probes and scrapes, which are no `work`, are not collected.
pub fn arrived<'a>(
    id: &str,
    method: &str,
    path: &str,
    is_work: bool,
    header: impl Fn(&'static str) -> Option<&'a str>,
) -> Span {
    let span = if is_work {
        tracing::info_span!("request", id, method, path, trace_id = Empty, otel.kind = Empty)
    } else {
        tracing::debug_span!("request", id, method, path, trace_id = Empty, otel.kind = Empty)
    };
    if TRACER.get().is_some() {
        span.record("otel.kind", "server"); // before the span is asked for its context, which begins it
    }
    let told = ["traceparent", "tracestate"].into_iter();
    let told: HashMap<String, String> =
        told.filter_map(|key| Some((key.to_owned(), header(key)?.to_owned()))).collect();
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), &told);
    let of_caller = caller.span().span_context().clone();
    if of_caller.is_valid() {
        let _ = span.set_parent(caller); // fails where nobody collects
    }
    let own = span.context().span().span_context().clone();
    if let Some(known) = [own, of_caller].into_iter().find(opentelemetry::trace::SpanContext::is_valid) {
        span.record("trace_id", display(known.trace_id()));
    }
    span
}

/// Says in the end what a request's span was about; `failed` if that was the server's fault.
pub fn ended<const N: usize>(span: &Span, name: String, words: [(&'static str, String); N], failed: bool) {
    let context = span.context();
    let told = context.span();
    told.update_name(name);
    told.set_attributes(words.map(|(key, word)| KeyValue::new(key, word)));
    if failed {
        told.set_status(Status::error("the log says more"));
    }
}

/// Says how many of something there were, in the request's span.
pub fn counted<const N: usize>(span: &Span, counts: [(&'static str, usize); N]) {
    span.context().span().set_attributes(counts.map(of_count));
}

fn of_count((key, count): (&'static str, usize)) -> KeyValue {
    KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX))
}

/// Where the spans of a request's parts belong.
#[derive(Clone, Debug)]
pub struct Trace {
    span: Span,
    /// Set where somebody collects this request's spans.
    context: Option<Context>,
}

impl Trace {
    /// That of the request being served on this thread.
    #[must_use]
    pub fn current() -> Self {
        Self::of(Span::current())
    }

    /// That of a request by its span.
    #[must_use]
    pub fn of(span: Span) -> Self {
        let context = Some(span.context()).filter(|context| context.span().span_context().is_sampled());
        Self { span, context }
    }

    /// Runs `f` as a part of the request, so that what it logs names it.
    pub fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        self.span.in_scope(f)
    }

    /// A part of the request that began and ended; `facts` are counts, made only if they are collected.
    pub fn part<const N: usize>(
        &self,
        name: &'static str,
        from: Instant,
        until: Instant,
        facts: impl FnOnce() -> [(&'static str, usize); N],
    ) {
        let (Some(context), Some(tracer)) = (&self.context, TRACER.get()) else { return };
        let (now, clock) = (SystemTime::now(), Instant::now());
        let at = |instant: Instant| now.checked_sub(clock.saturating_duration_since(instant)).unwrap_or(now);
        let facts = facts().map(of_count);
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(at(from));
        let mut part = tracer.build_with_context(builder.with_attributes(facts), context);
        part.end_with_timestamp(at(until));
    }

    /// A step of the refinement, if it is one that has a span.
    pub fn step<const N: usize>(
        &self,
        step: u32,
        from: Instant,
        until: Instant,
        facts: impl FnOnce() -> [(&'static str, usize); N],
    ) {
        if has_span(step) {
            self.part("step", from, until, facts);
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
