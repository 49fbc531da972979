//! Messages as requests to the engine. Out of scope: values, which `engine::admission` checks.

use super::proto::{self, proofreading, remasking, unmasking};
use crate::api::error::ApiError;
use crate::api::wire::completion::task;
use crate::api::wire::params::missing;
use crate::api::wire::repair::with_repair_fields;
use crate::api::wire::response_format;
use crate::api::wire::score::threshold;
use crate::diffusion::TokenId;
use crate::diffusion::policy::order::CONFIDENCE;
use crate::diffusion::policy::{self, Choice, Kind, Rule, Setting, Settings, THRESHOLD, find, rules};
use crate::engine::{DEFAULT_BLANK, EndOfText, Format, Prompt, Proofreading, Request, Task};
use crate::text::{Message, quoted};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::metadata::MetadataMap;

/// Largest part of a client's timeout that is reserved for sending the answer.
const RESERVE_MAX: Duration = Duration::from_millis(500);
/// Limit on the digits of a `grpc-timeout`, as gRPC defines it.
const TIMEOUT_DIGITS_MAX: usize = 8;

pub(super) struct CallParams {
    pub(super) request: Request,
    /// Send the edits of every step, too.
    pub(super) with_edits: bool,
}

impl CallParams {
    /// The same, with a deadline before the client's timeout, unless the request has its own.
    pub(super) fn within(self, timeout: Option<Duration>) -> Self {
        let deadline = timeout.map(|timeout| {
            let left = timeout.saturating_sub((timeout / 10).min(RESERVE_MAX));
            left.max(Duration::from_millis(1)) // a deadline of 0 is an error
        });
        Self { request: Request { deadline: self.request.deadline.or(deadline), ..self.request }, ..self }
    }
}

/// The client's timeout; `None` without a valid `grpc-timeout`.
pub(super) fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let is_count = (1..=TIMEOUT_DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = if is_count { digits.parse().ok()? } else { return None };
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

pub(super) fn generate(asked: proto::GenerateRequest) -> Result<CallParams, ApiError> {
    use proto::generate_request::Prompt as P;
    let prompt = match asked.prompt.ok_or_else(|| missing("prompt", "a text, token ids, or a chat"))? {
        P::Text(text) => Prompt::Text(text),
        P::TokenIds(tokens) => ids(tokens),
        P::Chat(chat) => {
            let messages = chat.messages.into_iter().map(|message| Message::new(message.role, message.content));
            Prompt::Chat(messages.collect::<Vec<_>>().into())
        }
    };
    let request = Request {
        temperature: asked.temperature,
        top_p: asked.top_p,
        min_p: asked.min_p,
        top_k: Some(asked.top_k).filter(|top_k| *top_k > 0),
        presence_penalty: asked.presence_penalty,
        frequency_penalty: asked.frequency_penalty,
        repetition_penalty: asked.repetition_penalty.unwrap_or(1.0),
        logit_bias: asked.logit_bias.into_iter().map(|(token, bias)| (TokenId(token), bias)).collect(),
        seed: asked.seed,
        stop: asked.stop,
        stop_tokens: asked.stop_token_ids.into_iter().map(TokenId).collect(),
        format: asked.format.map_or(Ok(Format::Text), format)?,
        priority: asked.priority,
        ..Request::new(task(prompt, asked.max_tokens, asked.suffix.map(Into::into).as_ref())?)
    };
    let with_edits = asked.diffusion.as_ref().is_some_and(|diffusion| diffusion.stream_edits);
    Ok(CallParams { request: diffusion(asked.diffusion, request)?, with_edits })
}

/// The format of an answer. Schemas and skeletons are strings of JSON, and are read as HTTP's are.
fn format(asked: proto::generate_request::Format) -> Result<Format, ApiError> {
    use proto::generate_request::Format as F;
    let parsed = |name: &str, text: &str| {
        let param = format!("response_format.{name}");
        let message = |error: serde_json::Error| format!("{param}: not valid JSON: {error}");
        serde_json::from_str::<Value>(text).map_err(|error| ApiError::invalid(param.clone(), message(error)))
    };
    let format = match asked {
        F::JsonObject(proto::JsonObject {}) => json!({"type": "json_object"}),
        F::JsonSchema(text) => {
            json!({"type": "json_schema", "json_schema": {"schema": parsed("json_schema.schema", &text)?}})
        }
        F::JsonSkeleton(text) => json!({"type": "json_skeleton", "skeleton": parsed("skeleton", &text)?}),
    };
    response_format::read(Some(&format))
}

pub(super) fn infill(asked: proto::InfillRequest) -> Result<CallParams, ApiError> {
    let blank = asked.blank.unwrap_or_else(|| DEFAULT_BLANK.to_owned());
    let request = Request {
        temperature: asked.temperature,
        top_p: asked.top_p,
        min_p: asked.min_p,
        top_k: Some(asked.top_k).filter(|top_k| *top_k > 0),
        presence_penalty: asked.presence_penalty,
        frequency_penalty: asked.frequency_penalty,
        repetition_penalty: asked.repetition_penalty.unwrap_or(1.0),
        seed: asked.seed,
        priority: asked.priority,
        ..Request::new(Task::Infill { template: asked.template, blank })
    };
    Ok(CallParams { request: diffusion(asked.diffusion, request)?, with_edits: true })
}

/// The request, and the quality below which a token is doubtful.
pub(super) fn score(asked: proto::ScoreRequest) -> Result<(CallParams, f32), ApiError> {
    use proto::score_request::Given as G;
    let below = threshold(asked.below)?;
    let text = match asked.given.ok_or_else(no_text)? {
        G::Text(text) => Prompt::Text(text),
        G::TokenIds(tokens) => ids(tokens),
    };
    let task = Task::Score { text, likelihood: asked.likelihood };
    let request = Request { priority: asked.priority, ..Request::new(task) };
    Ok((CallParams { request, with_edits: false }, below))
}

pub(super) fn repair(asked: proto::RepairRequest) -> Result<CallParams, ApiError> {
    use proto::repair_request::Given as G;
    let text = match asked.given.ok_or_else(no_text)? {
        G::Text(text) => Prompt::Text(text),
        G::TokenIds(tokens) => ids(tokens),
    };
    let pinned = asked.pinned.into_iter().map(|proto::Span { start, end }| start as usize..end as usize).collect();
    let request = Request {
        temperature: asked.temperature,
        top_p: asked.top_p,
        min_p: asked.min_p,
        top_k: Some(asked.top_k).filter(|top_k| *top_k > 0),
        seed: asked.seed,
        priority: asked.priority,
        ..Request::new(Task::Repair { text, pinned })
    };
    let request = with_repair_fields(diffusion(asked.diffusion, request)?, asked.steps, asked.below, asked.worst)?;
    Ok(CallParams { request, with_edits: true })
}

fn ids(tokens: proto::TokenIds) -> Prompt {
    Prompt::Tokens(tokens.ids.into_iter().map(TokenId).collect())
}

fn no_text() -> ApiError {
    missing("text", "a text or token ids")
}

fn diffusion(asked: Option<proto::Diffusion>, request: Request) -> Result<Request, ApiError> {
    let asked = asked.unwrap_or_default();
    let unmasking = asked.unmasking.unwrap_or_default();
    const ORDER_KNOBS: &str = "diffusion.unmasking.order_knobs";
    let rule = order(unmasking.order, &unmasking.order_name)?;
    let knobs = with_knobs(rule.unwrap_or(&CONFIDENCE), unmasking.order_knobs, ORDER_KNOBS, ORDER_KNOBS)?.settings;
    let order = CONFIDENCE.unless(rule, knobs);
    Ok(Request {
        preset: asked.preset,
        order,
        pace: unmasking.pace.map_or(Ok(Settings::EMPTY), pace)?,
        steps: asked.steps,
        block_length: asked.block_length,
        remasking: asked.remasking.map(remasking).transpose()?,
        proofreading: asked.proofreading.map(proofreading).transpose()?,
        end_of_text: end_of_text(asked.end_of_text)?,
        cache: asked.cache.map(|cache| named(Kind::Cache, "diffusion.cache", cache)).transpose()?,
        cfg_scale: asked.cfg_scale,
        deadline: asked.deadline_ms.map(|millis| Duration::from_millis(millis.into())),
        return_quality: asked.return_quality,
        ..request
    })
}

fn order(number: i32, name: &str) -> Result<Option<&'static Rule>, ApiError> {
    if !name.is_empty() {
        return rule(Kind::Order, "diffusion.unmasking.order_name", name).map(Some);
    }
    let member = proto::Order::try_from(number)
        .map_err(|_| no_member("diffusion.unmasking.order", number, "1 (confidence) to 5 (leftmost)"))?;
    Ok(find(Kind::Order, &word("ORDER_", member.as_str_name())))
}

fn pace(asked: unmasking::Pace) -> Result<Settings, ApiError> {
    match asked {
        unmasking::Pace::Threshold(threshold) => Ok(Settings::EMPTY.with(THRESHOLD.name, Setting::Number(threshold))),
        unmasking::Pace::Rule(asked) => {
            let Choice { rule, settings } = named(Kind::Pace, "diffusion.unmasking.rule", asked)?;
            if settings.get(rule.name).is_some() {
                return Ok(settings);
            }
            Err(missing("diffusion.unmasking.rule.knobs", &format!("a value for {}", rule.name)))
        }
    }
}

/// A rule by its name.
fn rule(kind: Kind, field: &'static str, name: &str) -> Result<&'static Rule, ApiError> {
    find(kind, name).ok_or_else(|| {
        let names: Vec<_> = rules(kind).iter().map(|rule| format!("{:?}", rule.name)).collect();
        let given = quoted(name);
        ApiError::invalid(field, format!("{field}: given {given}; give one of {}", names.join(", ")))
    })
}

/// A rule by its name, with its knobs.
fn named(kind: Kind, field: &'static str, asked: proto::Rule) -> Result<Choice, ApiError> {
    with_knobs(rule(kind, field, &asked.name)?, asked.knobs, field, &format!("{field}.knobs"))
}

/// A rule with knobs. Errors are of a field, and begin with the place of the knobs.
fn with_knobs(
    rule: &'static Rule,
    knobs: BTreeMap<String, proto::rule::Value>,
    field: &'static str,
    place: &str,
) -> Result<Choice, ApiError> {
    use proto::rule::value::Value as V;
    let mut choice = Choice::of(rule);
    for (name, value) in knobs {
        let fault = |problem: String| ApiError::invalid(field, format!("{place}: {problem}"));
        let Some(knob) = rule.knob(&name) else {
            let own: Vec<_> = rule.knobs.iter().map(|knob| knob.name).collect();
            let own =
                if own.is_empty() { "it takes none".to_owned() } else { format!("its knobs are {}", own.join(", ")) };
            return Err(fault(format!("{} has no knob {}; {own}", rule.name, quoted(&name))));
        };
        let setting = match value.value {
            Some(V::Count(count)) => Setting::Count(count),
            Some(V::Number(number)) => Setting::Number(number),
            Some(V::Span(proto::remasking::Window { from, until })) => Setting::Span([from, until]),
            None => return Err(fault(format!("{name} has no value; give {}", knob.range))),
        };
        choice = choice.with(knob.name, setting);
    }
    Ok(choice)
}

fn end_of_text(number: i32) -> Result<Option<EndOfText>, ApiError> {
    let member = proto::EndOfText::try_from(number)
        .map_err(|_| no_member("diffusion.end_of_text", number, "1 (free) to 3 (never)"))?;
    let word = word("END_OF_TEXT_", member.as_str_name());
    let known = EndOfText::ALL.into_iter().find(|(known, ..)| *known == word);
    Ok(known.map(|(_, choice, _)| choice))
}

/// The word for a member of the protocol's enum, as `margin` for `ORDER_MARGIN`.
fn word(prefix: &str, member: &str) -> String {
    member.trim_start_matches(prefix).to_lowercase()
}

/// The error of a number that only a newer server knows; its default would be something else.
fn no_member(param: &'static str, number: i32, allowed: &str) -> ApiError {
    ApiError::invalid(param, format!("{param}: given {number}; give {allowed}, or 0 for the default"))
}

fn remasking(asked: proto::Remasking) -> Result<Choice, ApiError> {
    use remasking::Policy as P;
    // empty, or a policy that only a newer server knows
    let wanted = "one of off, quality, confidence, remdm, random and rule";
    let (rule, budget, below, window, hold): (&'static Rule, _, _, _, _) = match asked
        .policy
        .ok_or_else(|| missing("diffusion.remasking", wanted))?
    {
        P::Off(remasking::Off {}) => (&policy::OFF, None, None, None, None),
        P::Quality(remasking::Quality { budget, below, window, hold }) => {
            (&policy::QUALITY, budget, below, window, hold)
        }
        P::Confidence(remasking::Confidence { budget, below, window, hold }) => {
            (&policy::confidence::CONFIDENCE, budget, below, window, hold)
        }
        P::Remdm(remasking::ReMdm { budget, window, hold }) => (&policy::REMDM, budget, None, window, hold),
        P::Random(remasking::Random { budget, window, hold }) => (&policy::random::RANDOM, budget, None, window, hold),
        P::Rule(asked) => return named(Kind::Remasking, "diffusion.remasking.rule", asked),
    };
    let [window, hold] = [window, hold].map(|part| part.map(|part| [part.from, part.until]));
    let choice = Choice::of(rule).with_some(policy::BUDGET.name, budget);
    let choice = choice.with_some(policy::BELOW.name, below).with_some(policy::WINDOW.name, window);
    Ok(choice.with_some(policy::HOLD.name, hold))
}

fn proofreading(asked: proto::Proofreading) -> Result<Proofreading, ApiError> {
    use proofreading::Mode as M;
    match asked.mode.ok_or_else(|| missing("diffusion.proofreading", "one of off and rounds"))? {
        M::Off(proofreading::Off {}) => Ok(Proofreading { steps: Some(0), ..Proofreading::default() }),
        M::Rounds(proofreading::Rounds { steps, below, most, temperature }) => {
            Ok(Proofreading { steps, below, most, temperature })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_text_has_a_member_of_its_name() {
        for (number, (word, choice, _)) in (1..).zip(EndOfText::ALL) {
            assert_eq!(end_of_text(number).unwrap(), Some(choice), "{word}");
        }
        assert_eq!(end_of_text(0).unwrap(), None);
        assert!(end_of_text(4).is_err());
    }

    #[test]
    fn a_clients_timeout_is_read_and_shortened() {
        for (value, timeout_ms, deadline_ms) in [
            ("1S", Some(1000), Some(900)),
            ("250m", Some(250), Some(225)),
            ("2M", Some(120_000), Some(119_500)),
            ("1H", Some(3_600_000), Some(3_599_500)),
            ("0m", Some(0), Some(1)),
            ("5000u", Some(5), Some(4)),
            ("99999999H", Some(359_999_996_400_000), Some(359_999_996_399_500)),
            ("5000000n", Some(5), Some(4)),
            ("123456789S", None, None),
            ("+5S", None, None),
            ("5", None, None),
            ("S", None, None),
            ("5s", None, None),
            ("", None, None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", value.parse().unwrap());
            let timeout = timeout(&metadata);
            assert_eq!(timeout.map(|timeout| timeout.as_millis()), timeout_ms, "{value:?}");
            let params = || infill(proto::InfillRequest::default()).unwrap();
            let deadline = params().within(timeout).request.deadline;
            assert_eq!(deadline.map(|deadline| deadline.as_millis()), deadline_ms, "{value:?}");
            let own = Some(Duration::from_millis(7));
            let given = CallParams { request: Request { deadline: own, ..params().request }, with_edits: false };
            assert_eq!(given.within(timeout).request.deadline, own, "a given deadline stands");
        }
        assert_eq!(timeout(&MetadataMap::new()), None);
    }
}
