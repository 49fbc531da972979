//! Keys and values that outlive a pass: which sequence has which pages of the store, within a
//! budget. Out of scope: the keys and values themselves, which the backend holds.

use super::network::Sight;
use std::collections::BTreeMap;
use std::ops::Range;

/// Cells of a page.
pub(crate) const PAGE: usize = 16;

/// A sequence, and whether its prompt is masked, as guidance has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) sequence: u64,
    pub(crate) is_unguided: bool,
}

/// A cell as a pass reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) at: u32,
    pub(crate) id: u32,
}

/// What is kept for a sequence: the cells of a pass, ascending, and the pages of their keys and
/// values.
#[derive(Clone, Debug, Default)]
struct Entry {
    cells: Vec<Read>,
    pages: Vec<u32>,
    /// The pass that last used it.
    used: u64,
}

/// The pages of a store.
#[derive(Debug)]
pub(crate) struct Pages {
    entries: BTreeMap<Key, Entry>,
    /// Pages that were used before.
    free: Vec<u32>,
    /// The first page that was never used.
    unused: u32,
    count: u32,
    /// Whether there was to be any memory, though it may hold no page.
    is_wanted: bool,
    pass: u64,
    evicted: u64,
}

impl Pages {
    /// So many pages, all of them free. `is_wanted`: that there are none is a lack.
    pub(crate) fn new(count: u32, is_wanted: bool) -> Self {
        Self { entries: BTreeMap::new(), free: Vec::new(), unused: 0, count, is_wanted, pass: 0, evicted: 0 }
    }

    /// Pages of the store.
    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// Slots of all pages together, each for a cell.
    pub(crate) const fn slots(&self) -> usize {
        self.count as usize * PAGE
    }

    /// Pages in use.
    pub(crate) fn used(&self) -> usize {
        self.unused as usize - self.free.len()
    }

    /// Entries that made room for others so far, and times that one found no room.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// A new pass begins: what it uses stays until the next one begins.
    pub(crate) const fn begin(&mut self) {
        self.pass += 1;
    }

    /// How many of `cells`, from the first on, have the keys and values that a pass over `cells`
    /// would give them: of cells that attend to all others, all or none. `prompt` is the length of
    /// the prompt.
    pub(crate) fn valid(&self, key: Key, cells: &[Read], sight: Sight, prompt: usize) -> usize {
        let Some(entry) = self.entries.get(&key) else { return 0 };
        let same = entry.cells.iter().zip(cells).take_while(|(kept, cell)| kept == cell).count();
        let ends_block = |cells: &[Read], count: usize| match (cells.get(count.wrapping_sub(1)), cells.get(count)) {
            (Some(last), Some(next)) => sight.reach(last.at as usize, prompt, usize::MAX) <= next.at as usize,
            _ => true,
        };
        match sight {
            Sight::All if same == cells.len() && same == entry.cells.len() => same,
            Sight::All => 0,
            // a block that was seen in part has other keys than when it is seen as a whole
            Sight::Blocks { .. } => (0..=same)
                .rev()
                .find(|count| ends_block(&entry.cells, *count) && ends_block(cells, *count))
                .unwrap_or(0),
        }
    }

    /// Notes that this pass uses what is kept under `key`.
    pub(crate) fn touch(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.used = self.pass;
        }
    }

    /// Makes room for `cells`, the first `valid` of which are kept already. What was used least
    /// recently makes room, but nothing that this pass uses. False if there is too little.
    pub(crate) fn reserve(&mut self, key: Key, cells: &[Read], valid: usize) -> bool {
        let mut entry = self.entries.remove(&key).unwrap_or_default();
        let wanted = cells.len().div_ceil(PAGE);
        self.free.extend(entry.pages.drain(wanted.min(entry.pages.len())..));
        while entry.pages.len() < wanted {
            match self.take_free() {
                Some(page) => entry.pages.push(page),
                None if self.evict() => {}
                None => break,
            }
        }
        let has_room = entry.pages.len() >= wanted;
        if has_room {
            entry.cells.truncate(valid);
            entry.cells.extend(&cells[entry.cells.len()..]);
            entry.used = self.pass;
            self.entries.insert(key, entry);
        } else {
            self.free.append(&mut entry.pages);
            self.evicted += u64::from(self.is_wanted);
        }
        has_room
    }

    fn take_free(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let page = (self.unused < self.count).then_some(self.unused)?;
            self.unused += 1;
            Some(page)
        })
    }

    /// Frees the pages of the entry that was used least recently, unless this pass uses it.
    fn evict(&mut self) -> bool {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
        let Some(key) = oldest.filter(|(_, entry)| entry.used < self.pass).map(|(key, _)| *key) else { return false };
        self.drop_entry(key);
        self.evicted += 1;
        true
    }

    fn drop_entry(&mut self, key: Key) {
        if let Some(mut entry) = self.entries.remove(&key) {
            self.free.append(&mut entry.pages);
        }
    }

    /// Drops what is kept for a sequence.
    pub(crate) fn forget(&mut self, sequence: u64) {
        [false, true].into_iter().for_each(|is_unguided| self.drop_entry(Key { sequence, is_unguided }));
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        let keys: Vec<Key> = self.entries.keys().copied().collect();
        keys.into_iter().for_each(|key| self.drop_entry(key));
    }

    /// The slots of the cells that are kept under `key`, in their order.
    pub(crate) fn slots_of(&self, key: Key) -> impl Fn(usize) -> usize + '_ {
        let pages = self.entries.get(&key).map_or(&[][..], |entry| &entry.pages);
        move |index| pages[index / PAGE] as usize * PAGE + index % PAGE
    }

    /// Sequences for which something is kept.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.keys().filter(|key| !key.is_unguided).map(|key| key.sequence)
    }
}

/// Neighbouring places as ranges: of pairs of numbers that both count up, the first one of each run
/// and its length.
pub(crate) fn runs(pairs: impl Iterator<Item = (usize, usize)>) -> Vec<(Range<usize>, usize)> {
    let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
    for (from, to) in pairs {
        match runs.last_mut() {
            Some((range, start)) if range.end == from && *start + range.len() == to => range.end += 1,
            _ => runs.push((from..from + 1, to)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    const fn key(sequence: u64) -> Key {
        Key { sequence, is_unguided: false }
    }

    fn cells(ids: &[u32]) -> Vec<Read> {
        ids.iter().zip(0..).map(|(id, at)| Read { at, id: *id }).collect()
    }

    fn all(pages: &Pages, sequence: u64, ids: &[u32]) -> usize {
        pages.valid(key(sequence), &cells(ids), Sight::All, 0)
    }

    #[test]
    fn what_a_changed_canvas_left_is_worth_nothing_unless_it_lies_in_earlier_blocks() {
        let mut pages = Pages::new(4, true);
        let ids = [9, 9, 1, 2, 3, 4, 5, 6];
        assert!(pages.reserve(key(1), &cells(&ids), 0));
        assert_eq!(all(&pages, 1, &ids), 8);
        assert_eq!(all(&pages, 1, &ids[..6]), 0, "fewer cells are seen");
        assert_eq!(all(&pages, 1, &[9, 9, 1, 2, 3, 4, 5, 0]), 0);
        let blocks = Sight::Blocks { length: NonZeroUsize::new(3).unwrap() };
        let valid = |ids: &[u32]| pages.valid(key(1), &cells(ids), blocks, 2);
        assert_eq!(valid(&ids), 8);
        assert_eq!(valid(&[9, 9, 1, 2, 3, 4, 5, 0]), 5, "the prompt and a block");
        assert_eq!(valid(&[9, 9, 1, 2, 0, 4, 5, 6]), 2);
        assert_eq!(valid(&[9, 0, 1, 2, 3, 4, 5, 6]), 0);
        assert_eq!(valid(&[9, 9, 1, 2, 3, 4]), 5, "a block that is now seen in part");
        assert_eq!(valid(&[9, 9, 1, 2, 3]), 5);
        assert_eq!(valid(&[9, 9, 1, 2, 3, 4, 5, 6, 7]), 8);
    }

    #[test]
    fn the_least_recently_used_makes_room_but_never_what_the_pass_uses() {
        let mut pages = Pages::new(4, true);
        let ids = [7; 2 * PAGE];
        pages.begin();
        assert!(pages.reserve(key(1), &cells(&ids), 0) && pages.reserve(key(2), &cells(&ids), 0));
        assert!(!pages.reserve(key(3), &cells(&ids), 0), "the pass uses both");
        assert_eq!((pages.used(), pages.evicted()), (4, 1), "it found no room");
        pages.begin();
        pages.touch(key(1));
        assert!(pages.reserve(key(3), &cells(&ids), 0));
        assert_eq!([1, 2, 3].map(|sequence| all(&pages, sequence, &ids)), [32, 0, 32]);
        assert_eq!((pages.used(), pages.evicted()), (4, 2));
        assert!(!pages.reserve(key(4), &cells(&[7; 5 * PAGE]), 0), "more than there is");
        pages.forget(1);
        pages.forget(3);
        assert_eq!((pages.used(), pages.sequences().count(), pages.evicted()), (0, 0, 3));
        let mut none = [true, false].map(|is_wanted| Pages::new(0, is_wanted));
        assert!(none.iter_mut().all(|pages| !pages.reserve(key(1), &cells(&[1]), 0)));
        assert_eq!(none.map(|pages| pages.evicted()), [1, 0], "only one of them lacks memory");
    }

    #[test]
    fn no_two_cells_share_a_slot() {
        let mut pages = Pages::new(7, true);
        let sizes = [(1, 20), (2, 5), (3, 33)];
        for (sequence, size) in sizes {
            assert!(pages.reserve(key(sequence), &cells(&vec![1; size]), 0));
        }
        pages.forget(2);
        assert!(pages.reserve(key(1), &cells(&[1; 18]), 0) && pages.reserve(key(4), &cells(&[2; 30]), 0));
        let mut slots: Vec<usize> = [(1, 18), (3, 33), (4, 30)]
            .into_iter()
            .flat_map(|(sequence, size)| (0..size).map(pages.slots_of(key(sequence))).collect::<Vec<_>>())
            .collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 81);
        assert!(slots.iter().all(|slot| *slot < pages.slots()));
    }

    #[test]
    fn neighbours_make_runs() {
        let pairs = [(0, 5), (1, 6), (2, 8), (4, 9), (5, 10)];
        assert_eq!(runs(pairs.into_iter()), [(0..2, 5), (2..3, 8), (4..6, 9)]);
    }
}
