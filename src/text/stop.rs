//! The search for a stop string in a text that comes in pieces (Knuth, Morris and Pratt, "Fast
//! pattern matching in strings", SIAM J. Comput. 6(2), 1977). Out of scope: what follows a find.

/// How far a stop string is matched by the end of a text.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// For each beginning of the stop string that was matched so far: the bytes of the longest
    /// shorter beginning that it ends with.
    borders: Vec<usize>,
    matched: usize,
}

impl Search {
    /// Bytes of the longest beginning of the stop string that the text ends with.
    pub(super) const fn matched(&self) -> usize {
        self.matched
    }

    /// Reads the next byte of the text. True if the text ends with `stop` then; call it no more.
    pub(super) fn next(&mut self, stop: &str, byte: u8) -> bool {
        let stop = stop.as_bytes();
        while self.matched > 0 && stop.get(self.matched) != Some(&byte) {
            self.matched = self.borders[self.matched - 1];
        }
        if stop.get(self.matched) == Some(&byte) {
            self.matched += 1;
            self.learn(stop);
        }
        !stop.is_empty() && self.matched == stop.len()
    }

    /// Adds the border of the matched beginning, if it is longer than those before.
    fn learn(&mut self, stop: &[u8]) {
        let last = self.borders.len();
        if last >= self.matched {
            return;
        }
        let mut border = last.checked_sub(1).map_or(0, |before| self.borders[before]);
        while border > 0 && stop[border] != stop[last] {
            border = self.borders[border - 1];
        }
        let is_longer = last > 0 && stop[border] == stop[last];
        self.borders.push(border + usize::from(is_longer));
    }
}
