//! What the file of a quality head says of the head, besides the weights that it was made for. Out
//! of scope: how it is computed.

use super::save::Metadata;
use super::tensor_file::{JUDGED, LAYER, TensorFile};
use crate::diffusion::TokenSet;
use crate::model::error::LoadError;
use crate::model::states::Layer;

/// The entries [`JUDGED`] and [`LAYER`] of a file's header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HeadFacts {
    /// The tokens that the head was trained to judge; `None` where the file does not say.
    pub(crate) judged: Option<TokenSet>,
    /// The states that it reads; the last ones where the file does not say.
    pub(crate) layer: Layer,
}

impl HeadFacts {
    /// `entries` with those of the head.
    pub(crate) fn added_to(&self, mut entries: Metadata) -> Metadata {
        entries.extend(self.judged.as_ref().map(|judged| (JUDGED, judged.to_string())));
        if let Layer::After(number) = self.layer {
            entries.insert(LAYER, number.to_string());
        }
        entries
    }
}

/// The states that the head in a file reads, of a network of so many blocks.
///
/// # Errors
/// When the file names a block that the network does not have.
pub(crate) fn layer_of(file: &TensorFile, blocks: usize) -> Result<Layer, LoadError> {
    let Some(text) = file.metadata.get(LAYER) else { return Ok(Layer::Last) };
    let layer = text.parse().ok().and_then(|number| Layer::of(number, blocks));
    layer.ok_or_else(|| {
        let problem = format!(
            "has under {LAYER:?} in its header {text:?}, the block whose states its quality head reads; this model's \
             blocks are 1 to {blocks}. Give a head that was trained for this model"
        );
        LoadError::malformed(&file.name, problem)
    })
}

/// Checks that the head in a file reads the last states.
///
/// # Errors
/// When it reads those after a block of the network; `family` cannot give them.
pub(crate) fn check_is_last(file: &TensorFile, family: &str) -> Result<(), LoadError> {
    let Some(text) = file.metadata.get(LAYER) else { return Ok(()) };
    let problem = format!(
        "has under {LAYER:?} in its header {text:?}, the block whose states its quality head reads; a head of {family} \
         reads what follows the last block. Give a head without this entry"
    );
    Err(LoadError::malformed(&file.name, problem))
}
