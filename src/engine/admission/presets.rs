//! Presets: options under a name, for requests that do not set them. Out of scope: how they are
//! written.

use crate::engine::request::{Rejected, Request, Task, invalid};
use crate::text::quoted;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const PARAM: &str = "diffusion.preset";

/// The fields that a preset may set, by their names in the `diffusion` object.
pub(crate) const FIELDS: [&str; 7] =
    ["steps", "block_length", "unmasking", "remasking", "proofreading", "end_of_text", "cache"];

/// Whether a request sets each of [`FIELDS`].
fn set(request: &Request) -> [bool; 7] {
    [
        request.steps.is_some(),
        request.block_length.is_some(),
        request.order.is_some() || !request.pace.is_empty(),
        request.remasking.is_some(),
        request.proofreading.is_some(),
        request.end_of_text.is_some(),
        request.cache.is_some(),
    ]
}

/// Options under a name.
#[derive(Clone, Debug)]
pub(crate) struct Preset {
    /// A request of which only [`FIELDS`] count.
    pub(crate) options: Request,
    /// These fields in JSON, for clients.
    pub(crate) text: Map<String, Value>,
}

impl Preset {
    /// `request` with the options that it does not set itself, and the names of these fields.
    pub(super) fn fill(&self, request: Request) -> (Request, Vec<&'static str>) {
        let (own, offered) = (set(&request), set(&self.options));
        let is_taken = |field: &usize| offered[*field] && !own[*field];
        let taken = (0..FIELDS.len()).filter(is_taken).map(|field| FIELDS[field]).collect::<Vec<_>>();
        let options = &self.options;
        let from = if taken.contains(&"unmasking") { options } else { &request };
        let request = Request {
            order: from.order,
            pace: from.pace,
            steps: request.steps.or(options.steps),
            block_length: request.block_length.or(options.block_length),
            remasking: request.remasking.or(options.remasking),
            proofreading: request.proofreading.or_else(|| options.proofreading.clone()),
            end_of_text: request.end_of_text.or(options.end_of_text),
            cache: request.cache.or(options.cache),
            ..request
        };
        (request, taken)
    }
}

/// The presets of a model, by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presets(pub(crate) BTreeMap<String, Preset>);

/// What a request has from its preset.
pub(in crate::engine) struct Taken {
    name: String,
    fields: Vec<&'static str>,
}

impl Presets {
    /// The request with the options of its preset, and without the preset's name.
    ///
    /// # Errors
    /// When there is no preset of this name.
    pub(in crate::engine) fn fill(&self, mut request: Request) -> Result<(Request, Option<Taken>), Rejected> {
        let Some(name) = request.preset.take() else { return Ok((request, None)) };
        let Some(preset) = self.0.get(&name) else { return Err(self.unknown(&name)) };
        let (request, fields) = preset.fill(request);
        Ok((request, Some(Taken { name, fields })))
    }

    fn unknown(&self, name: &str) -> Rejected {
        let names: Vec<String> = self.0.keys().map(|name| format!("{name:?}")).collect();
        let given = format!("{PARAM}: given {}", quoted(name));
        if names.is_empty() {
            return invalid(PARAM, format!("{given}; this model has no presets, leave it out"));
        }
        invalid(PARAM, format!("{given}; give one of {}", names.join(", ")))
    }
}

impl Taken {
    /// The rejection of a request, which says what its preset has set, if that may be the reason.
    pub(super) fn explain(&self, rejected: Rejected) -> Rejected {
        match rejected {
            Rejected::Invalid { param, message } if self.has_part(&param, &message) => {
                let note = format!("the preset {:?} sets {}", self.name, self.fields.join(", "));
                Rejected::Invalid { param, message: format!("{message} ({note})") }
            }
            other => other,
        }
    }

    /// Whether an error is about a field that the preset sets, or names one.
    fn has_part(&self, param: &str, message: &str) -> bool {
        let words = |text: &str| text.replace('_', " ");
        let Some(field) = param.strip_prefix("diffusion.").and_then(|path| path.split('.').next()) else {
            return false;
        };
        self.fields.iter().any(|set| *set == field || words(message).contains(&words(set)))
    }
}

/// Checks that a preset goes with the tasks: it says how blanks are filled.
pub(super) fn check_tasks(request: &Request, tasks: &[Task]) -> Result<(), Rejected> {
    if request.preset.is_none() {
        return Ok(());
    }
    let why = tasks.iter().find_map(|task| match task {
        Task::Repair { .. } => Some("a repair, which has steps, below and worst beside its text"),
        Task::Score { .. } => Some("a score, which fills nothing"),
        Task::Continue { .. } | Task::Infill { .. } | Task::Between { .. } | Task::InfillTokens { .. } => None,
    });
    why.map_or(Ok(()), |why| Err(invalid(PARAM, format!("{PARAM} does not go with {why}; leave it out"))))
}
