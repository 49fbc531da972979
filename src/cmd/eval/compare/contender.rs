//! The policies that are compared, in the words of a request.

use crate::api::Refinement;
use crate::cmd::eval::input::read_lines;
use crate::diffusion::policy::{BUDGET, Choice, Kind, rules};
use crate::engine::{Handle, Proofreading, Request, Task};
use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use std::path::Path;

/// A policy that takes part.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// What the report calls it.
    pub(super) name: String,
    /// What it sets of a request. The task is empty.
    request: Request,
}

/// The policies on the command line, those of the file after them.
///
/// # Errors
/// When there is none, two have the same name, or one is malformed.
pub(super) fn read(typed: &[String], file: Option<&Path>) -> anyhow::Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    for text in typed {
        contenders.push(Contender::parse(text).with_context(|| format!("--policy {text}"))?);
    }
    if let Some(file) = file {
        contenders.extend(read_lines(file, |_, line| Contender::parse(line))?);
    }
    let Some(last) = contenders.len().checked_sub(1) else {
        bail!("there is no policy to compare; give some with --policy or --policies");
    };
    for (index, contender) in contenders[..last].iter().enumerate() {
        let name = &contender.name;
        if contenders[index + 1..].iter().any(|other| other.name == *name) {
            bail!("two policies are called {name}; give each a \"name\" of its own");
        }
    }
    Ok(contenders)
}

impl Contender {
    /// From a JSON object of fields of a request, or the name of a remasking, which comes without
    /// proofreading, so that all take as many passes.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        if !text.starts_with('{') {
            let Some(rule) = rules(Kind::Remasking).into_iter().find(|rule| rule.name == text) else {
                let names: Vec<&str> = rules(Kind::Remasking).iter().map(|rule| rule.name).collect();
                let known = names.join(", ");
                bail!("{text:?} is no policy; give a JSON object of fields of a request, or a remasking: {known}");
            };
            let proofreading = Some(Proofreading { steps: Some(0), ..Proofreading::default() });
            let request = Request { remasking: Some(Choice::of(rule)), proofreading, ..nothing() };
            return Ok(Self { name: text.to_owned(), request });
        }
        let read = Refinement::parse(text).and_then(|fields| fields.read(nothing().task));
        let (name, request) = read.map_err(|error| anyhow!("{error}"))?;
        Ok(Self { name: name.unwrap_or_else(|| compact(text)), request })
    }

    /// The same with the options of the model's preset, if it names one.
    ///
    /// # Errors
    /// When the model has no such preset.
    pub(super) fn of_model(self, handle: &Handle) -> anyhow::Result<Self> {
        let request = handle.without_preset(self.request).with_context(|| format!("policy {}", self.name))?;
        Ok(Self { request, ..self })
    }

    /// Its own number of steps, else this one.
    pub(super) fn steps(&self, steps: u32) -> u32 {
        self.request.steps.unwrap_or(steps)
    }

    /// Whether it sets its number of steps itself.
    pub(super) fn has_steps(&self) -> bool {
        self.request.steps.is_some()
    }

    /// The request for a task, with these steps unless it sets its own. It may erase this often in
    /// each step on average, unless it sets its own budget.
    pub(super) fn request(&self, task: Task, seed: u64, steps: u32, erase_per_step: Option<f64>) -> Request {
        let steps = self.steps(steps);
        let budget = erase_per_step.map(|per_step| (per_step * f64::from(steps)).round() as u32);
        let remasking = self.request.remasking.map(|choice| match choice.rule.knob(BUDGET.name) {
            Some(_) if choice.settings.count(BUDGET.name).is_none() => choice.with_some(BUDGET.name, budget),
            _ => choice,
        });
        Request { task, steps: Some(steps), remasking, seed: Some(seed), ..self.request.clone() }
    }
}

/// A request that sets nothing.
fn nothing() -> Request {
    Request::new(Task::InfillTokens { cells: Vec::new() })
}

/// The JSON without blanks between its parts.
fn compact(json: &str) -> String {
    serde_json::from_str::<Value>(json).map_or_else(|_| json.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::TokenId;
    use crate::diffusion::policy::{QUALITY, Setting};

    #[test]
    fn a_policy_is_a_name_or_fields_of_a_request() {
        let read = |text: &str| Contender::parse(text).map_err(|error| format!("{error:#}"));
        let named = read("quality").unwrap();
        assert_eq!((named.name.as_str(), named.request.remasking), ("quality", Some(Choice::of(&QUALITY))));
        let text =
            r#"{"name": "hot", "temperature": 1, "top_k": 5, "diffusion": {"steps": 7, "remasking": "quality"}}"#;
        let hot = read(text).unwrap();
        assert!(hot.name == "hot" && hot.has_steps() && !named.has_steps());
        let request = hot.request(nothing().task, 3, 16, None);
        assert_eq!((request.steps, request.temperature, request.top_k, request.seed), (Some(7), 1.0, Some(5), Some(3)));
        let penalised =
            r#"{"presence_penalty": 0.5, "frequency_penalty": -1, "repetition_penalty": 1.5, "logit_bias": {"3": 2}}"#;
        let request = read(penalised).unwrap().request(nothing().task, 3, 16, None);
        let penalties = [request.presence_penalty, request.frequency_penalty, request.repetition_penalty];
        assert_eq!((penalties, request.logit_bias), ([0.5, -1.0, 1.5], vec![(TokenId(3), 2.0)]));
        assert_eq!(read(r#"{ "temperature": 1 }"#).unwrap().name, r#"{"temperature":1}"#);
        for (text, words) in [
            ("best", "\"best\" is no policy; give a JSON object of fields of a request, or a remasking: off, quality"),
            (r#"{"temprature": 1}"#, "unknown field `temprature`, expected"),
            (r#"{"repetition_penalty": "1"}"#, "a string; give a number from 0.01 to 100, 1 for none"),
            (r#"{"logit_bias": {"a": 1}}"#, "logit_bias: \"a\" is no token id"),
            (r#"{"diffusion": {"steps": 0.5}}"#, "diffusion.steps: given 0.5; give a whole number"),
            (r#"{"diffusion": {"#, "the policy is not valid JSON"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_budget_follows_the_steps_unless_it_is_set() {
        let budget = |text: &str, per_step| {
            let request = Contender::parse(text).unwrap().request(nothing().task, 0, 16, per_step);
            request.remasking.and_then(|choice| choice.settings.get("budget"))
        };
        assert_eq!(budget("quality", Some(1.75)), Some(Setting::Count(28)));
        assert_eq!(budget("quality", None), None);
        assert_eq!(budget("off", Some(1.75)), None);
        let own = r#"{"diffusion": {"remasking": {"policy": "quality", "budget": 5}}}"#;
        assert_eq!(budget(own, Some(1.75)), Some(Setting::Count(5)));
    }
}
