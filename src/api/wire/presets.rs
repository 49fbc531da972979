//! Presets: fields of the `diffusion` object under a name: built-in ones for all models, those of
//! the model's card, and those of its `generation_config.json`. Out of scope: what a request makes
//! of them, which `engine::admission` knows.

use super::refinement::Refinement;
use crate::engine::{Handle, PRESET_FIELDS, Preset, Presets, Rejected, Task};
use crate::model::{ModelSpec, PresetsText};
use crate::text::quoted;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The presets of models without and with a quality head, and those of families.
const BUILT_IN: &str = include_str!("presets.json");
/// What errors call that file.
const BUILT_IN_FILE: &str = "the built-in presets.json";

/// Most presets in a file. All are listed in `/v1/models`.
const PRESETS_MAX: usize = 64;
/// Most characters of a name.
const NAME_MAX: usize = 64;

/// Why the presets of a model cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct PresetError {
    /// The file that has them.
    pub file: String,
    /// The preset and the field at fault, what was given, what is allowed.
    pub problem: String,
}

/// The same engine with the presets of its model: `fast`, `balanced` and `quality`, those of its
/// family, those of its card, and those of its `generation_config.json`. Later ones come in place
/// of earlier ones of the same name.
///
/// # Errors
/// When a preset is malformed, or a request with it would be refused whatever it asks for.
pub fn with_presets(handle: &Handle) -> Result<Handle, PresetError> {
    let spec = handle.spec();
    let mut presets = read(&built_in(spec)?, handle)?;
    for written in spec.card.iter().chain(&spec.presets) {
        presets.extend(read(written, handle)?);
    }
    Ok(handle.with_presets(Presets(presets)))
}

fn built_in(spec: &ModelSpec) -> Result<PresetsText, PresetError> {
    let wrong = |problem: String| PresetError { file: BUILT_IN_FILE.to_owned(), problem };
    let mut sets: BTreeMap<String, Map<String, Value>> =
        serde_json::from_str(BUILT_IN).map_err(|error| wrong(error.to_string()))?;
    let name = if spec.has_quality { "with_head" } else { "without_head" };
    let mut presets = sets.remove(name).ok_or_else(|| wrong(format!("{name} is missing")))?;
    presets.extend(sets.remove(&format!("of_{}", spec.family)).unwrap_or_default());
    Ok(PresetsText { file: BUILT_IN_FILE.to_owned(), presets })
}

/// The presets of a file, which this engine takes.
fn read(written: &PresetsText, handle: &Handle) -> Result<BTreeMap<String, Preset>, PresetError> {
    let wrong = |problem: String| PresetError { file: written.file.clone(), problem };
    let count = written.presets.len();
    if count > PRESETS_MAX {
        return Err(wrong(format!("presets: given {count}; give at most {PRESETS_MAX}")));
    }
    let read = |(name, value): (&String, &Value)| {
        let preset = check_name(name).and_then(|()| one(name, value, handle)).map_err(wrong)?;
        Ok((name.clone(), preset))
    };
    written.presets.iter().map(read).collect()
}

fn check_name(name: &str) -> Result<(), String> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    if (1..=NAME_MAX).contains(&name.len()) && name.chars().all(is_letter) {
        return Ok(());
    }
    let allowed = format!("give names of 1 to {NAME_MAX} letters, digits, `_`, `-` and `.`");
    Err(format!("presets: given the name {}; {allowed}", quoted(name)))
}

/// A preset, or what is wrong with it.
fn one(name: &str, value: &Value, handle: &Handle) -> Result<Preset, String> {
    let place = format!("presets.{name}");
    let known = PRESET_FIELDS.join(", ");
    let Some(fields) = value.as_object() else {
        return Err(format!("{place}: given {}; give an object with some of {known}", quoted(&value.to_string())));
    };
    if let Some(field) = fields.keys().find(|field| !PRESET_FIELDS.contains(&field.as_str())) {
        return Err(format!("{place}: unknown field {}; a preset has some of {known}", quoted(field)));
    }
    // a field that is null is not given
    let text: Map<String, Value> = fields.clone().into_iter().filter(|(_, value)| !value.is_null()).collect();
    let nothing = Task::InfillTokens { cells: Vec::new() };
    let options = Refinement::parse(&json!({"diffusion": text}).to_string()).and_then(|fields| fields.read(nothing));
    let (_, options) = options.map_err(|error| problem(&place, error.param.as_deref(), &error.message))?;
    let preset = Preset { options, text };
    handle.check_preset(&preset).map_err(|rejected| match rejected {
        Rejected::Invalid { param, message } | Rejected::TooLong { param, message } => {
            problem(&place, Some(&param), &message)
        }
        Rejected::Full { .. } | Rejected::Draining | Rejected::GivenUp => format!("{place}: {rejected}"),
    })?;
    Ok(preset)
}

/// An error of a request, about the preset at `place` instead of its `diffusion` object.
fn problem(place: &str, param: Option<&str>, message: &str) -> String {
    let at_place = |text: &str| text.replace("diffusion.", &format!("{place}."));
    let (param, message) = (param.map_or_else(|| place.to_owned(), at_place), at_place(message));
    if message.starts_with(&param) { message } else { format!("{param}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::TokenId;
    use crate::engine::{Limits, start};
    use crate::model::{Batch, Denoiser, Inspection, Keeping, ModelError, Readings, Toy, cards};
    use crate::telemetry::Metrics;
    use std::num::NonZeroUsize;

    #[tokio::test]
    async fn the_built_in_presets_are_three_for_every_model() {
        for toy in [Toy::new(), Toy::without_head()] {
            let handle =
                start(Box::new(toy), None, Limits::default(), Metrics::new().unwrap().model("toy").unwrap()).unwrap();
            let handle = with_presets(&handle).unwrap();
            let names: Vec<&String> = handle.presets().0.keys().collect();
            assert_eq!(names, ["balanced", "fast", "quality"]);
        }
    }

    #[test]
    fn an_error_of_a_request_names_the_place_in_the_file() {
        let at = |param, message| problem("presets.fast", param, message);
        assert_eq!(at(Some("diffusion.steps"), "steps is 0; give 1"), "presets.fast.steps: steps is 0; give 1");
        assert_eq!(
            at(Some("diffusion.steps"), "diffusion.steps: given \"a\"; give 1"),
            "presets.fast.steps: given \"a\"; give 1"
        );
        assert_eq!(at(None, "the body: no"), "presets.fast: the body: no");
    }

    /// A toy that says it is another model.
    struct Named(Toy, ModelSpec);

    impl Denoiser for Named {
        fn spec(&self) -> &ModelSpec {
            &self.1
        }

        fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
            self.0.read(batch)
        }

        fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
            self.0.inspect(ids)
        }
    }

    #[tokio::test]
    async fn every_preset_of_a_card_is_one_that_its_model_takes_and_its_family_does_not_have() {
        let metrics = || Metrics::new().unwrap().model("toy").unwrap();
        for card in cards().unwrap() {
            let model = card.models[0].as_str();
            let spec =
                |family: &str, keeping| ModelSpec { family: family.to_owned(), keeping, ..Toy::new().spec().clone() };
            let spec = match model {
                "maple-research-lab/RemeDi-Instruct" => {
                    let exact = Keeping::Exact(NonZeroUsize::new(32).unwrap());
                    ModelSpec { judges_blanks: true, ..spec("remedi", exact) }
                }
                "kuleshov-group/proseco-owt" => ModelSpec { has_quality: false, ..spec("mdlm", Keeping::No) },
                _ => ModelSpec { has_quality: false, ..spec("llada", Keeping::Approximate) },
            };
            let presets = |card: Option<PresetsText>| {
                let model = Box::new(Named(Toy::new(), ModelSpec { card, ..spec.clone() }));
                let handle = start(model, None, Limits::default(), metrics()).unwrap();
                with_presets(&handle).unwrap_or_else(|error| panic!("{error}")).presets().0.clone()
            };
            let (without, with) = (presets(None), presets(Some(card.presets())));
            for (name, fields) in &card.presets().presets {
                let text = |preset: &Preset| Value::from(preset.text.clone());
                assert_eq!(text(&with[name]), *fields, "{model}: {name}");
                assert!(without.values().all(|own| text(own) != *fields), "{model}: {name} adds nothing");
            }
        }
    }
}
