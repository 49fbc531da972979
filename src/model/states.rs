//! The states that a pass returns: which are asked for, and what reads them. Out of scope: how they
//! are computed.

use candle_core::{Error, Result, Tensor, bail};
use std::num::NonZeroUsize;

/// The states that a quality head reads, by the blocks before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layer {
    /// The residual stream after so many blocks, without the final norm; fewer than there are.
    After(NonZeroUsize),
    /// What the network's output layer reads, or what blocks of the head's own make of it.
    #[default]
    Last,
}

impl Layer {
    /// After block `number`, counted from 1, of so many; `None` where there is no such block.
    pub(crate) fn of(number: usize, blocks: usize) -> Option<Self> {
        match NonZeroUsize::new(number)? {
            last if last.get() == blocks => Some(Self::Last),
            number => Some(Self::After(number)).filter(|_| number.get() < blocks),
        }
    }

    /// The number of its block, counted from 1, of so many.
    pub(crate) fn number(self, blocks: usize) -> usize {
        match self {
            Self::After(number) => number.get(),
            Self::Last => blocks,
        }
    }
}

/// Which states a pass is asked for. It may end after the block that gives the last of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Whether the output layer reads them.
    pub(crate) hidden: bool,
    /// Those that quality heads read.
    pub(crate) layers: &'a [Layer],
}

impl Wanted<'_> {
    /// How many blocks the pass goes through, of a network with so many.
    pub(crate) fn depth(&self, blocks: usize) -> usize {
        let deepest = self.layers.iter().map(|layer| layer.number(blocks)).max();
        deepest.filter(|_| !self.hidden).unwrap_or(blocks)
    }
}

/// States of the requested tokens, in order, each (asked, width).
pub(crate) struct States {
    /// Input of the output layer, where it was asked for.
    pub(crate) hidden: Option<Tensor>,
    /// Input of quality heads: one for each layer that was asked for.
    pub(crate) judged: Vec<Tensor>,
}

impl States {
    /// Those of a network whose quality head reads no earlier layer; `judged` is its input.
    pub(crate) fn of_last(hidden: Tensor, judged: &Tensor, wanted: Wanted<'_>) -> Result<Self> {
        let judged = wanted.layers.iter().map(|layer| match layer {
            Layer::Last => Ok(judged.clone()),
            Layer::After(number) => bail!("the states after block {number} are not kept by this network"),
        });
        Ok(Self { judged: judged.collect::<Result<_>>()?, hidden: Some(hidden) })
    }

    /// Input of the output layer.
    pub(crate) fn hidden(&self) -> Result<&Tensor> {
        self.hidden.as_ref().ok_or_else(|| Error::Msg("the pass ended before the output layer".to_owned()))
    }
}
