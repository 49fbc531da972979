//! The store of keys and values: its pages, and the tensors behind them, which exist from the first
//! pass that keeps something. Out of scope: which cells are kept.

use super::backend::{Backend, Keeping, Shelves};
use super::interface::KeptStates;
use super::kept::{PAGE, Pages};
use super::network::ShelfSize;
use super::row::SequenceName;
use candle_core::{Result, Tensor};

/// The share of the free memory of a device that a store may take, if nobody says how much.
const SHARE: u64 = 4;

/// The store of a model.
pub(super) struct Shelf {
    /// `None` of a network that cannot keep anything.
    size: Option<ShelfSize>,
    pub(super) pages: Pages,
    /// Of each layer, keys and values, (slots, width) each. Recorded passes of a GPU go on using
    /// them, so they stay as long as the model.
    layers: Vec<[Tensor; 2]>,
}

impl Shelf {
    /// A store of at most `bytes`; `None` is a share of the memory that is free now.
    pub(super) fn new(size: Option<ShelfSize>, bytes: Option<u64>, backend: &dyn Backend) -> Self {
        let bytes = || bytes.unwrap_or_else(|| backend.free_bytes() / SHARE);
        let count = size.map_or(0, |size| bytes() / (PAGE * size.bytes()).max(1) as u64);
        Self { size, pages: Pages::new(u32::try_from(count).unwrap_or(u32::MAX)), layers: Vec::new() }
    }

    /// Allocates the tensors, if that was not done before: half as many pages, and so on, where the
    /// device has no room for them. (On a CPU the system provides their memory as it is written.)
    pub(super) fn set_up(&mut self, backend: &dyn Backend) -> Result<()> {
        let Some(size) = self.size.filter(|_| self.layers.is_empty()) else { return Ok(()) };
        loop {
            let shelf = || Tensor::zeros((self.pages.slots().max(1), size.width), size.dtype, &backend.device());
            let layers = (0..size.layers).map(|_| Ok([shelf()?, shelf()?])).collect::<Result<_>>();
            match (layers, self.pages.count()) {
                (Ok(layers), _) => {
                    self.layers = layers;
                    return Ok(());
                }
                (Err(error), 0) => return Err(error),
                (Err(_), count) => self.pages = Pages::new(count / 2),
            }
        }
    }

    /// The store for a pass which keeps keys and values of some of its tokens.
    pub(super) fn shelves(&self, keeping: Keeping) -> Shelves<'_> {
        Shelves { layers: &self.layers, keeping }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.pages.clear();
    }

    pub(super) fn kept(&self) -> Option<KeptStates> {
        let page_bytes = (self.size?.bytes() * PAGE) as u64;
        Some(KeptStates {
            sequences: self.pages.sequences().map(SequenceName).collect(),
            bytes: self.pages.used() as u64 * page_bytes,
            bytes_max: self.pages.slots() as u64 / PAGE as u64 * page_bytes,
            evicted: self.pages.evicted(),
        })
    }
}
