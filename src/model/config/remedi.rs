//! What a configuration of `RemeDi` (arXiv 2509.23653) has beside LLaDA's: how it is recognised,
//! its ids, and the tensors that judge. The places of the side blocks and the length of the blocks
//! of cells are constants of its published code.

use crate::model::error::LoadError;
use serde_json::{Map, Value, json};

/// After these layers (counted from 0) a side block runs.
pub(crate) const SIDES: [usize; 4] = [0, 10, 20, 30];
/// Cells of a block, counted from the end of the prompt.
pub(crate) const BLOCK: usize = 32;
/// What the names of the side blocks' tensors begin with; no other family has such.
pub(crate) const SIDE_BLOCKS: &str = "model.blocks_upm.";
/// What the names of the tensors begin with that LLaDA does not have.
pub(crate) const OWN: [&str; 5] =
    [SIDE_BLOCKS, "model.backprop_norms.", "model.backprop_linears.", "model.ln_f_upm.", "model.linear_confidence."];

/// What its class is called in `model_type` and `architectures`.
const MODEL_TYPE: &str = "RemeDi";
const ARCHITECTURE: &str = "RemeDiUPMModelLM";
/// Ids of the published models: those of LLaDA-8B.
const IDS: [(&str, u32); 3] = [("mask_token_id", 126_336), ("eos_token_id", 126_081), ("pad_token_id", 126_081)];

/// Whether the keys of a `config.json` name the family. Published ones may say `llada`: then its
/// tensors tell.
pub(crate) fn is_named(keys: &Map<String, Value>) -> bool {
    let is_class = |value: &Value| value.as_str().is_some_and(|text| text.rsplit('.').next() == Some(ARCHITECTURE));
    let classes = keys.get("architectures").and_then(Value::as_array);
    let sources = keys.get("auto_map").and_then(Value::as_object);
    keys.get("model_type").is_some_and(|name| name == MODEL_TYPE)
        || classes.is_some_and(|classes| classes.iter().any(is_class))
        || sources.is_some_and(|sources| sources.values().any(is_class))
}

/// Whether one of these tensors is of this family.
pub(crate) fn is_among<'a>(mut tensors: impl Iterator<Item = &'a String>) -> bool {
    tensors.any(|name| name.contains(SIDE_BLOCKS.trim_start_matches("model.")))
}

/// Makes keys of this family those of LLaDA: the class, and ids that are only in
/// `generation_config.json` (`generating`) or nowhere.
pub(super) fn complete(keys: &mut Map<String, Value>, generating: &Map<String, Value>) {
    if keys.get("model_type").is_some_and(|given| given == MODEL_TYPE) {
        keys.insert("model_type".to_owned(), json!("llada"));
    }
    if keys.get("architectures").is_some_and(|given| *given == json!([ARCHITECTURE])) {
        keys.remove("architectures");
    }
    let rows = ["embedding_size", "vocab_size"].iter().filter_map(|key| keys.get(*key)?.as_u64()).max();
    for (key, id) in IDS {
        let is_given = |keys: &Map<String, Value>| keys.get(key).is_some_and(|value| !value.is_null());
        if is_given(keys) {
            continue;
        }
        if is_given(generating) {
            keys.insert(key.to_owned(), generating[key].clone());
        } else if rows.is_some_and(|rows| u64::from(id) < rows) {
            keys.insert(key.to_owned(), json!(id));
        }
    }
}

/// Name and shape of every tensor that LLaDA does not have, for states of width `d`; `block` gives
/// those of a block whose tensors' names begin like this.
pub(super) fn tensors(d: usize, block: impl Fn(&str) -> Vec<(String, Vec<usize>)>) -> Vec<(String, Vec<usize>)> {
    let sides = (0..SIDES.len()).flat_map(|side| {
        let own = [
            (format!("model.backprop_norms.{side}.weight"), vec![d]),
            (format!("model.backprop_linears.{side}.weight"), vec![d, d]),
            (format!("model.backprop_linears.{side}.bias"), vec![d]),
        ];
        block(&format!("{SIDE_BLOCKS}{side}")).into_iter().chain(own)
    });
    let last =
        [("ln_f_upm.weight", vec![d]), ("linear_confidence.weight", vec![1, d]), ("linear_confidence.bias", vec![1])];
    sides.chain(last.map(|(name, shape)| (format!("model.{name}"), shape))).collect()
}

/// What the side blocks require of the number of layers.
pub(super) fn check(layers: usize, file: &str) -> Result<(), LoadError> {
    let [.., last] = SIDES;
    if layers > last {
        return Ok(());
    }
    let problem =
        format!("says `n_layers` is {layers}; RemeDi's last side block follows layer {last}: it must be more");
    Err(LoadError::malformed(file, problem))
}
