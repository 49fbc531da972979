//! Sets of token ids: which tokens a quality head was trained to judge.

use super::units::TokenId;
use std::{fmt, ops::RangeInclusive, str::FromStr, sync::Arc};

/// A set of token ids, written as ascending ids and ranges that include both ends: `1-9,12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    /// Ascending, with at least one id between two ranges.
    ranges: Arc<[RangeInclusive<u32>]>,
}

impl TokenSet {
    /// Whether the token is one of them.
    pub fn contains(&self, token: TokenId) -> bool {
        let next = self.ranges.partition_point(|range| *range.end() < token.0);
        self.ranges.get(next).is_some_and(|range| range.contains(&token.0))
    }

    /// The ids that are in either set.
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&*other.ranges).cloned().collect()
    }

    /// All other ids.
    pub fn complement(&self) -> Self {
        let starts = std::iter::once(Some(0)).chain(self.ranges.iter().map(|range| range.end().checked_add(1)));
        let ends = self.ranges.iter().map(|range| range.start().checked_sub(1)).chain([Some(u32::MAX)]);
        let between = |(start, end): (Option<u32>, Option<u32>)| Some(start?..=end?);
        starts.zip(ends).filter_map(between).filter(|range| !range.is_empty()).collect()
    }
}

impl FromIterator<RangeInclusive<u32>> for TokenSet {
    fn from_iter<T: IntoIterator<Item = RangeInclusive<u32>>>(ranges: T) -> Self {
        let mut all: Vec<RangeInclusive<u32>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        all.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u32>> = Vec::new();
        for range in all {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                Some(_) | None => merged.push(range),
            }
        }
        Self { ranges: merged.into() }
    }
}

impl FromIterator<TokenId> for TokenSet {
    fn from_iter<T: IntoIterator<Item = TokenId>>(tokens: T) -> Self {
        tokens.into_iter().map(|TokenId(id)| id..=id).collect()
    }
}

impl fmt::Display for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (start, end) if start == end => write!(f, "{comma}{start}")?,
                (start, end) => write!(f, "{comma}{start}-{end}")?,
            }
        }
        Ok(())
    }
}

/// A text that is no set of token ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no token id and no range of ids; give ids and ranges with commas between them, as 1-9,12")]
pub struct TokenSetError(String);

impl FromStr for TokenSet {
    type Err = TokenSetError;

    fn from_str(text: &str) -> Result<Self, TokenSetError> {
        let range = |part: &str| {
            let (start, end) = part.split_once('-').unwrap_or((part, part));
            let range = start.trim().parse().ok().zip(end.trim().parse().ok()).map(|(start, end)| start..=end);
            range.filter(|range| !range.is_empty()).ok_or_else(|| TokenSetError(part.to_owned()))
        };
        if text.trim().is_empty() { Ok(Self { ranges: Arc::default() }) } else { text.split(',').map(range).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_set_is_written_as_ranges() {
        for (text, written) in
            [("1-9,12", "1-9,12"), ("", ""), ("5, 3,4 ,4-6", "3-6"), ("0-4294967295", "0-4294967295")]
        {
            assert_eq!(text.parse::<TokenSet>().unwrap().to_string(), written);
        }
        for bad in ["a", "1-", "-1", "3-2", "1,,2", "4294967296", "1-2-3"] {
            let error = bad.parse::<TokenSet>().unwrap_err().to_string();
            assert!(error.contains("as 1-9,12"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_set_holds_its_ids_and_its_complement_the_others(
            one in prop::collection::btree_set(0u32..40, 0..40), other in prop::collection::btree_set(0u32..40, 0..9)
        ) {
            let of = |ids: &std::collections::BTreeSet<u32>| ids.iter().map(|id| TokenId(*id)).collect::<TokenSet>();
            let (set, both) = (of(&one), of(&one).union(&of(&other)));
            for id in (0..41).chain([u32::MAX]) {
                prop_assert_eq!(set.contains(TokenId(id)), one.contains(&id));
                prop_assert_eq!(set.complement().contains(TokenId(id)), !one.contains(&id));
                prop_assert_eq!(both.contains(TokenId(id)), one.contains(&id) || other.contains(&id));
            }
            prop_assert_eq!(set.to_string().parse::<TokenSet>().unwrap(), set);
        }
    }
}
