//! Cards: what is published about a model of the Hugging Face hub beside its files, as presets and
//! ids that a file may lack. `cards.json` holds them, each value with its source. Out of scope:
//! what a family of models says already, and whether a preset is valid.

use super::{error::LoadError, spec::PresetsText};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

const CARDS: &str = include_str!("cards.json");
/// What errors call that file.
const FILE: &str = "the built-in cards.json";

/// What is published about some models.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Card {
    /// Names on the hub, as `GSAI-ML/LLaDA-8B-Instruct`; upper and lower case are the same.
    pub(crate) models: Vec<String>,
    /// Where it is published: a paper or a repository.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers of the file; tests ask for it"))]
    pub(crate) source: String,
    /// Ids of special tokens that `config.json` may lack, by its keys.
    #[serde(default)]
    ids: Map<String, Value>,
    presets: BTreeMap<String, Published>,
}

/// A preset of a card.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers of the file; tests ask for it"))]
    source: String,
    /// Fields of a request's `diffusion` object.
    diffusion: Map<String, Value>,
}

impl Card {
    /// The card of the model in `dir`, where that is a directory in the hub's cache.
    ///
    /// # Errors
    /// When the file of the cards is malformed, which no build of this program is.
    pub(crate) fn of(dir: &Path) -> Result<Option<Self>, LoadError> {
        // a link may lead into the cache
        let name = hub_name(dir).or_else(|| hub_name(&dir.canonicalize().ok()?));
        name.map_or(Ok(None), |name| Self::named(&name))
    }

    /// The card of the model of this name on the hub.
    fn named(name: &str) -> Result<Option<Self>, LoadError> {
        let is_it = |card: &Self| card.models.iter().any(|model| model.eq_ignore_ascii_case(name));
        Ok(all()?.into_iter().find(is_it))
    }

    /// Its presets.
    pub(crate) fn presets(&self) -> PresetsText {
        let presets = self.presets.iter().map(|(name, preset)| (name.clone(), preset.diffusion.clone().into()));
        let file = format!("{FILE}, {}", self.models.join(" and "));
        PresetsText { file, presets: presets.collect() }
    }

    /// Adds the ids that `config.json` has not got, of which `keys` are the keys; those that
    /// `generation_config.json` has (`generating`) come first.
    pub(crate) fn complete(&self, keys: &mut Map<String, Value>, generating: &Map<String, Value>) {
        for (key, id) in &self.ids {
            let given = |keys: &Map<String, Value>| keys.get(key).filter(|value| !value.is_null()).cloned();
            if given(keys).is_none() {
                keys.insert(key.clone(), given(generating).unwrap_or_else(|| id.clone()));
            }
        }
    }
}

/// All cards, in the order of the file.
pub(crate) fn all() -> Result<Vec<Card>, LoadError> {
    serde_json::from_str(CARDS).map_err(|cause| LoadError::malformed(&FILE, cause.to_string()))
}

/// The name on the hub of a model in the hub's cache: `dir` is
/// `models--OWNER--NAME/snapshots/REVISION` there.
fn hub_name(dir: &Path) -> Option<String> {
    let snapshots = dir.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))?;
    let (owner, name) = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?.split_once("--")?;
    Some(format!("{owner}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_models_that_no_other_has_and_a_source_for_every_value() {
        let cards = all().unwrap();
        let mut models: Vec<String> =
            cards.iter().flat_map(|card| &card.models).map(|model| model.to_lowercase()).collect();
        let count = models.len();
        models.sort();
        models.dedup();
        assert_eq!(models.len(), count, "a model has two cards");
        let is_source = |text: &str| text.contains("arXiv ") || text.contains("https://");
        for card in &cards {
            assert!(!card.models.is_empty() && is_source(&card.source), "{card:?}");
            assert!(card.models.iter().all(|model| model.split('/').count() == 2), "{card:?}");
            assert!(card.presets.values().all(|preset| is_source(&preset.source)), "{card:?}");
            assert!(!card.presets.is_empty() || !card.ids.is_empty(), "{card:?} says nothing");
            let is_id = |(key, id): (&String, &Value)| key.ends_with("_token_id") && id.as_u64().is_some();
            assert!(card.ids.iter().all(is_id), "{card:?}");
        }
    }

    #[test]
    fn a_directory_in_the_cache_of_the_hub_has_the_card_of_its_model_in_any_case() {
        let card = |dir: &str| Card::of(Path::new(dir)).unwrap().map(|card| card.models[0].clone());
        for dir in ["/x/hub/models--GSAI-ML--LLaDA-1.5/snapshots/0a1b", "models--gsai-ml--llada-1.5/snapshots/0a1b/"] {
            assert_eq!(card(dir).as_deref(), Some("GSAI-ML/LLaDA-8B-Instruct"), "{dir}");
        }
        for dir in [
            "/x/hub/models--GSAI-ML--LLaDA-1.6/snapshots/0a1b",
            "/x/hub/models--GSAI-ML--LLaDA-1.5",
            "/x/hub/models--GSAI-ML--LLaDA-1.5/snapshots",
            "/x/hub/datasets--GSAI-ML--LLaDA-1.5/snapshots/0a1b",
            "/x/GSAI-ML/LLaDA-1.5",
            "LLaDA-1.5",
            "/",
            "",
        ] {
            assert_eq!(card(dir), None, "{dir}");
        }
    }

    #[test]
    fn ids_of_a_card_fill_only_what_is_missing() {
        let card = Card::named("GSAI-ML/iLLaDA-8B-Base").unwrap().unwrap();
        let completed = |keys: Value, generating: Value| {
            let (mut keys, generating) = (keys.as_object().unwrap().clone(), generating.as_object().unwrap().clone());
            card.complete(&mut keys, &generating);
            keys["mask_token_id"].as_u64().unwrap()
        };
        let (none, null, own) = (serde_json::json!({}), serde_json::json!({"mask_token_id": null}), 7);
        assert_eq!([completed(none.clone(), none.clone()), completed(null.clone(), null)], [5, 5]);
        let given = serde_json::json!({"mask_token_id": own});
        assert_eq!([completed(given.clone(), none.clone()), completed(none, given)], [own, own]);
    }
}
