//! The store of keys and values: its pages, and the tensors behind them, which exist from the first
//! pass that keeps something. Out of scope: which cells are kept.

use super::backend::{Backend, Keeping, KvLayers};
use super::interface::KeptStates;
use super::kept::{PAGE, Pages};
use super::network::KvSize;
use super::row::SequenceName;
use candle_core::{Result, Tensor};

/// The share of the free memory of a device that a store may take, if nobody says how much.
const SHARE: u64 = 4;

/// The store of a model.
pub(super) struct KvStore {
    /// `None` of a network that cannot keep anything.
    size: Option<KvSize>,
    pub(super) pages: Pages,
    /// Of each layer, keys and values, (slots, width) each. Recorded passes of a GPU go on using
    /// them, so they stay as long as the model.
    layers: Vec<[Tensor; 2]>,
    /// Whether a pass has begun and not ended: its pages may lack what they were reserved for.
    is_in_pass: bool,
}

impl KvStore {
    /// A store of at most `bytes`; `None` is a share of the memory that is free now.
    pub(super) fn new(size: Option<KvSize>, bytes: Option<u64>, backend: &dyn Backend) -> Self {
        let is_wanted = bytes != Some(0);
        let bytes = || bytes.unwrap_or_else(|| backend.free_bytes() / SHARE);
        let count = size.map_or(0, |size| bytes() / (PAGE * size.bytes()).max(1) as u64);
        Self {
            size,
            pages: Pages::new(u32::try_from(count).unwrap_or(u32::MAX), is_wanted),
            layers: Vec::new(),
            is_in_pass: false,
        }
    }

    /// Allocates the tensors, if that was not done before: half as many pages, and so on, where the
    /// device has no room for them. (On a CPU the system provides their memory as it is written.)
    pub(super) fn set_up(&mut self, backend: &dyn Backend) -> Result<()> {
        let Some(size) = self.size.filter(|_| self.layers.is_empty()) else { return Ok(()) };
        loop {
            let kv_store = || Tensor::zeros((self.pages.slots().max(1), size.width), size.dtype, &backend.device());
            let layers = (0..size.layers).map(|_| Ok([kv_store()?, kv_store()?])).collect::<Result<_>>();
            match (layers, self.pages.count()) {
                (Ok(layers), _) => {
                    self.layers = layers;
                    return Ok(());
                }
                (Err(error), 0) => return Err(error),
                (Err(_), count) => self.pages = Pages::new(count / 2, true),
            }
        }
    }

    /// The store for a pass which keeps keys and values of some of its tokens.
    pub(super) fn kv_layers(&self, keeping: Keeping) -> KvLayers<'_> {
        KvLayers { layers: &self.layers, keeping }
    }

    /// A pass begins. If the one before did not end, by an error or a panic, everything is
    /// forgotten.
    pub(super) fn begin(&mut self) {
        if std::mem::replace(&mut self.is_in_pass, true) {
            self.pages.clear();
        }
        self.pages.begin();
    }

    /// The pass has succeeded: what it was to keep is there.
    pub(super) const fn end(&mut self) {
        self.is_in_pass = false;
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

#[cfg(test)]
mod tests {
    use super::super::kept::{Key, Read};
    use super::super::network::Sight;
    use super::*;
    use crate::model::backend::cpu::Cpu;
    use candle_core::DType;

    #[test]
    fn what_a_broken_pass_was_to_keep_is_not_taken_for_kept() {
        let size = KvSize { layers: 1, width: 4, dtype: DType::F32 };
        let mut store = KvStore::new(Some(size), Some(1 << 20), &Cpu);
        let (key, cells) = (Key { sequence: 1, is_unguided: false }, [Read { at: 0, id: 7 }]);
        let valid = |store: &KvStore| store.pages.valid(key, &cells, Sight::All, 0);
        store.begin();
        assert!(store.pages.reserve(key, &cells, 0));
        store.end();
        store.begin();
        assert_eq!(valid(&store), 1);
        store.begin(); // the pass before did not end
        assert_eq!((valid(&store), store.kept().unwrap().bytes), (0, 0));
    }
}
