//! Kinds of visits, and the counts of how requests must have ended.

use std::collections::BTreeMap;

/// What a client does in one visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A whole grid with the default steps.
    Long,
    /// Three lines in a few steps.
    Short,
    /// A grid and its edits, read to the end.
    Streamed,
    /// A completion or a chat completion, read to the end.
    Completed,
    /// A grid and its edits, read slowly.
    Slow,
    /// A stream that the client drops.
    Dropped,
    /// A stream that is cancelled by its id.
    Deleted,
    /// A stream that breaks and is resumed.
    Resumed,
    /// A request that must be refused.
    Malformed,
    /// A request that breaks off.
    Abrupt,
    /// Health, readiness, metrics and models.
    Operator,
}

impl Kind {
    /// Visits of each kind in a hundred.
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

    /// Every kind in turn for the first visits, drawn for the rest.
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

/// How the server must have counted a request, as far as its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Ok,
    Invalid,
    Refused,
    Cancelled,
    /// The client disconnected: counted as `ok` or `cancelled`.
    Left,
    /// The body broke off: counted as `invalid` or `cancelled`.
    Broken,
}

impl End {
    /// The outcomes it may be counted as.
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

/// The observations of clients.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) visits: BTreeMap<Kind, u64>,
    /// By endpoint label of the metrics.
    pub(super) ends: BTreeMap<(&'static str, End), u64>,
    /// Unexpected results.
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

    /// Number of requests that ended so.
    pub(super) fn ended(&self, end: End) -> u64 {
        self.ends.iter().filter(|((_, other), _)| *other == end).map(|(_, count)| count).sum()
    }
}
