//! What clients come for, and the ledger of what the server must have counted.

use std::collections::BTreeMap;

/// What a client comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A whole grid, with all the steps it gets by default.
    Long,
    /// Three lines in a few steps.
    Short,
    /// A grid and its edits, read to the end.
    Streamed,
    /// The same of a completion or a conversation.
    Completed,
    /// The same, by a reader who takes his time.
    Slow,
    /// A stream that is left amid it.
    Dropped,
    /// One that is stopped by its name.
    Deleted,
    /// One that is cut, and read on.
    Resumed,
    /// What no server can take.
    Malformed,
    /// Half a request.
    Abrupt,
    /// How are you?
    Operator,
}

impl Kind {
    /// Of a hundred visits so many.
    pub(super) const SHARES: [(Self, u32); 11] = [
        (Self::Long, 16),
        (Self::Short, 16),
        (Self::Streamed, 12),
        (Self::Completed, 14),
        (Self::Slow, 10),
        (Self::Dropped, 6),
        (Self::Deleted, 6),
        (Self::Resumed, 4),
        (Self::Malformed, 8),
        (Self::Abrupt, 4),
        (Self::Operator, 4),
    ];

    /// The first visits are of every kind, in turn; those that follow are drawn.
    pub(super) fn of(client: u32, visit: u32, draw: f64) -> Self {
        if visit == 0 {
            return Self::SHARES[client as usize % Self::SHARES.len()].0;
        }
        let mut left = draw * 100.0;
        let drawn = Self::SHARES.into_iter().find(|(_, share)| {
            left -= f64::from(*share);
            left < 0.0
        });
        drawn.map_or(Self::Long, |(kind, _)| kind)
    }
}

/// How a request must have ended in the server's eyes, as far as its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Ok,
    Invalid,
    Refused,
    Cancelled,
    /// Its client went away: `ok` or `cancelled`, whichever came first.
    Left,
    /// Its body broke off: `invalid` or `cancelled`, whichever was noticed first.
    Broken,
}

impl End {
    /// The outcomes it may have been counted as.
    pub(super) const fn outcomes(self) -> &'static [&'static str] {
        match self {
            Self::Ok => &["ok"],
            Self::Invalid => &["invalid"],
            Self::Refused => &["refused"],
            Self::Cancelled => &["cancelled"],
            Self::Left => &["ok", "cancelled"],
            Self::Broken => &["invalid", "cancelled"],
        }
    }
}

/// What clients saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) visits: BTreeMap<Kind, u64>,
    /// By endpoint, as its metrics call it.
    pub(super) ends: BTreeMap<(&'static str, End), u64>,
    /// What nobody expected.
    pub(super) errors: Vec<(Kind, String)>,
}

impl Seen {
    pub(super) fn add(&mut self, other: Self) {
        other.visits.into_iter().for_each(|(kind, count)| *self.visits.entry(kind).or_default() += count);
        other.ends.into_iter().for_each(|(end, count)| *self.ends.entry(end).or_default() += count);
        self.errors.extend(other.errors);
    }

    pub(super) fn end(&mut self, endpoint: &'static str, end: End) {
        *self.ends.entry((endpoint, end)).or_default() += 1;
    }

    /// Requests that ended so.
    pub(super) fn ended(&self, end: End) -> u64 {
        self.ends.iter().filter(|((_, other), _)| *other == end).map(|(_, count)| count).sum()
    }
}
