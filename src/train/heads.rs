//! Quality heads that are trained together on the same states: their sizes, the blocks that they
//! read, and what their parameters are called. Out of scope: the loss, and files.

use super::error::TrainError;
use super::init::{self, Weights};
use super::parameters::Parameters;
use crate::model::{Config, HeadFacts, INNER, Layer, PRISM_HEAD};
use candle_core::Device;
use serde::{Serialize, Serializer};
use std::{fmt, path::Path, str::FromStr};

/// A quality head to train, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadChoice {
    /// Rows of its first matrix, 1 to [`HeadChoice::SIZE_MAX`].
    pub size: usize,
    /// The block, counted from 1, whose states it reads; `None` is the last one.
    pub layer: Option<usize>,
}

impl HeadChoice {
    /// Largest size: four times the widest states of today's models.
    pub const SIZE_MAX: usize = 1 << 16;
}

impl FromStr for HeadChoice {
    type Err = String;

    /// Reads `SIZE` or `SIZE@LAYER`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (size, layer) = text.split_once('@').map_or((text, None), |(size, layer)| (size, Some(layer)));
        let number = |text: &str| text.parse().ok().filter(|number: &usize| *number > 0);
        let choice = match (number(size), layer.map(number)) {
            (Some(size), None) => Some(Self { size, layer: None }),
            (Some(size), Some(Some(layer))) => Some(Self { size, layer: Some(layer) }),
            (None, _) | (Some(_), Some(None)) => None,
        };
        choice.filter(|choice| choice.size <= Self::SIZE_MAX).ok_or_else(|| {
            format!(
                "give SIZE or SIZE@LAYER, as 256 or 256@16: a size from 1 to {} and a block of the model, counted from 1",
                Self::SIZE_MAX
            )
        })
    }
}

impl fmt::Display for HeadChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, layer } = self;
        match layer {
            Some(layer) => write!(f, "{size}@{layer}"),
            None => write!(f, "{size}"),
        }
    }
}

/// A quality head of a model. It is displayed as `SIZE@LAYER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadForm {
    /// Rows of its first matrix.
    pub size: usize,
    /// The block, counted from 1, whose states it reads.
    pub block: usize,
    pub(super) layer: Layer,
}

impl HeadForm {
    fn new(size: usize, layer: Layer, config: &Config) -> Self {
        Self { size, block: layer.number(config.n_layers), layer }
    }

    /// The form of a head: as large as the states, and reading the last ones.
    fn usual(config: &Config) -> Self {
        Self::new(config.d_model, Layer::Last, config)
    }

    /// The form of a model's head; `None` without one.
    fn of(head: Option<&Weights>, layer: Layer, config: &Config) -> Option<Self> {
        let size = head?.get(INNER)?.dims().first().copied()?;
        Some(Self::new(size, layer, config))
    }
}

impl fmt::Display for HeadForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.size, self.block)
    }
}

impl Serialize for HeadForm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Heads of a run at most: each needs memory for its states and its optimiser.
const HEADS_MAX: usize = 64;

/// The heads of a run, at least one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heads(Vec<HeadForm>);

impl Heads {
    /// Those that are asked for, of a model with a head of the form `before` or without one.
    /// Nothing asked for is one head: of that form, or the usual one.
    fn new(asked: &[HeadChoice], config: &Config, before: Option<HeadForm>) -> Result<Self, TrainError> {
        let wrong = |problem: String| Err(TrainError::Settings(problem));
        if asked.len() > HEADS_MAX {
            return wrong(format!("--head names {} heads; give at most {HEADS_MAX}", asked.len()));
        }
        let mut heads: Vec<HeadForm> = Vec::new();
        for choice in asked {
            if !(1..=HeadChoice::SIZE_MAX).contains(&choice.size) {
                return wrong(format!("--head {choice}: give a size from 1 to {}", HeadChoice::SIZE_MAX));
            }
            let blocks = config.n_layers;
            let Some(layer) = Layer::of(choice.layer.unwrap_or(blocks), blocks) else {
                return wrong(format!(
                    "--head {choice}: the model has {blocks} blocks; give a layer from 1 to {blocks}"
                ));
            };
            let head = HeadForm::new(choice.size, layer, config);
            if heads.contains(&head) {
                return wrong(format!(
                    "--head names {head} twice (a head without a layer reads the states of the last block, {blocks}); \
                     give each head once"
                ));
            }
            heads.push(head);
        }
        match before {
            Some(before) if heads.is_empty() => Ok(Self(vec![before])),
            Some(before) if heads != [before] => {
                let asked = heads.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                wrong(format!(
                    "the model has the quality head {before}, which training starts from, and --head asks for {asked}. \
                     Leave --head out to train that head further; for other heads, which start from random weights, \
                     give a copy of the model without {PRISM_HEAD}"
                ))
            }
            None if heads.is_empty() => Ok(Self(vec![HeadForm::usual(config)])),
            _ => Ok(Self(heads)),
        }
    }

    /// The heads to train alone, and their parameters: those of the model's head, or random ones.
    pub(super) fn alone(
        asked: &[HeadChoice],
        config: &Config,
        (before, facts): (Option<Weights>, &HeadFacts),
        seed: u64,
        device: &Device,
    ) -> Result<(Self, Parameters), TrainError> {
        let heads = Self::new(asked, config, HeadForm::of(before.as_ref(), facts.layer, config))?;
        let mut parameters = Parameters::default();
        for head in &heads.0 {
            let fresh = || init::head(config.d_model, head.size, seed, device);
            for (name, tensor) in before.clone().map_or_else(fresh, Ok)? {
                parameters.train(heads.prefix(*head) + &name, &tensor)?;
            }
        }
        Ok((heads, parameters))
    }

    /// The head beside a backbone that learns, which reads the last states, and its tensors.
    pub(super) fn beside(
        base: &Path,
        config: &Config,
        (before, facts): (Option<Weights>, &HeadFacts),
        seed: u64,
        device: &Device,
    ) -> Result<(Self, Weights), TrainError> {
        let form = HeadForm::of(before.as_ref(), facts.layer, config).unwrap_or_else(|| HeadForm::usual(config));
        if let Layer::After(block) = form.layer {
            return Err(TrainError::Settings(format!(
                "{} has a quality head that reads the states after block {block} of {}. Such a head is trained alone: \
                 give --learns head; or give a copy of the model without {PRISM_HEAD}",
                base.display(),
                config.n_layers
            )));
        }
        let head = before.map_or_else(|| init::head(config.d_model, form.size, seed, device), Ok)?;
        Ok((Self(vec![form]), head))
    }

    /// In the order in which they were asked for. The first one judges for the sampler.
    pub(super) fn all(&self) -> &[HeadForm] {
        &self.0
    }

    /// Whether there are several, which are compared.
    pub(super) fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Whether this is the one head that is trained where nothing is said.
    pub(super) fn are_usual(&self, config: &Config) -> bool {
        self.0 == [HeadForm::usual(config)]
    }

    /// What the names of a head's parameters begin with: nothing where it is the only one.
    pub(super) fn prefix(&self, head: HeadForm) -> String {
        if self.are_several() { format!("{head}.") } else { String::new() }
    }

    /// The states that are read, each once.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let mut layers = Vec::new();
        for head in &self.0 {
            if !layers.contains(&head.layer) {
                layers.push(head.layer);
            }
        }
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    fn config() -> Config {
        let json = serde_json::json!({
            "model_type": "llada", "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms",
            "d_model": 32, "n_layers": 4, "n_heads": 2, "mlp_hidden_size": 40, "vocab_size": 11,
            "max_sequence_length": 89, "rope": false, "weight_tying": false, "mask_token_id": 0,
        });
        Config::parse(json.to_string().as_bytes(), "config.json").unwrap()
    }

    fn named(asked: &[(usize, Option<usize>)], before: Option<HeadForm>) -> Result<String, String> {
        let asked: Vec<HeadChoice> =
            asked.iter().map(|(size, layer)| HeadChoice { size: *size, layer: *layer }).collect();
        let heads = Heads::new(&asked, &config(), before).map_err(|error| error.to_string())?;
        Ok(heads.all().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_is_asked_for_is_a_head_of_the_model() {
        assert_eq!(named(&[], None).unwrap(), "32@4");
        assert_eq!(
            named(&[(8, None), (8, Some(3)), (65_536, Some(1)), (32, Some(4))], None).unwrap(),
            "8@4 8@3 65536@1 32@4"
        );
        for (asked, words) in [
            (&[(0, None)][..], "--head 0: give a size from 1 to 65536"),
            (&[(65_537, Some(1))], "--head 65537@1: give a size from 1 to 65536"),
            (&[(8, Some(0))], "--head 8@0: the model has 4 blocks; give a layer from 1 to 4"),
            (&[(8, Some(5))], "--head 8@5: the model has 4 blocks; give a layer from 1 to 4"),
            (&[(8, None), (9, None), (8, Some(4))], "--head names 8@4 twice (a head without a layer reads"),
            (&[(8, Some(1)); 65], "--head names 65 heads; give at most 64"),
        ] {
            let error = named(asked, None).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn heads_are_read_as_they_are_written() {
        for text in ["1", "65536", "256@1", "8@31"] {
            assert_eq!(text.parse::<HeadChoice>().unwrap().to_string(), text);
        }
        for text in ["", "0", "65537", "-1", "8@", "8@0", "@3", "8@1@2", "8@x", "a", "8 @1", "99999999999999999999"] {
            let error = text.parse::<HeadChoice>().unwrap_err();
            assert!(error.contains("give SIZE or SIZE@LAYER"), "{text}: {error}");
        }
    }

    #[test]
    fn a_model_that_has_a_head_trains_that_one() {
        let before = Some(HeadForm::new(8, Layer::of(2, 4).unwrap(), &config()));
        assert_eq!(named(&[], before).unwrap(), "8@2");
        assert_eq!(named(&[(8, Some(2))], before).unwrap(), "8@2");
        for asked in [&[(8, None)][..], &[(9, Some(2))], &[(8, Some(2)), (9, Some(2))]] {
            let error = named(asked, before).unwrap_err();
            assert!(error.contains("has the quality head 8@2") && error.contains("Leave --head out"), "{error}");
        }
    }

    #[test]
    fn parameters_of_several_heads_have_names_of_their_own() {
        let parameters = |choices: &[HeadChoice]| {
            Heads::alone(choices, &config(), (None, &HeadFacts::default()), 1, &Device::Cpu).unwrap()
        };
        let choice = |size, layer| HeadChoice { size, layer };
        let (one, alone) = parameters(&[choice(8, Some(2))]);
        let (heads, together) = parameters(&[choice(8, Some(2)), choice(5, None), choice(3, Some(2))]);
        assert_eq!((one.prefix(one.0[0]).as_str(), heads.prefix(heads.0[1]).as_str()), ("", "5@4."));
        assert_eq!(heads.layers(), [Layer::of(2, 4).unwrap(), Layer::Last]);
        assert_eq!((alone.trained.len(), together.trained.len()), (6, 18));
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (name, tensor) in &alone.trained {
            let same = &together.trained[&format!("8@2.{name}")];
            assert_eq!(numbers(tensor), numbers(same), "{name} starts as it does alone");
        }
        assert_eq!(together.trained["3@2.proj1.weight"].dims(), [3, 32]);
        assert_eq!(together.trained["3@2.proj2.weight"].dims(), [1, 3]);
    }
}
