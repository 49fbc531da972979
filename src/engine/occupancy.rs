//! The places of unfinished sequences: how many are taken, and by which callers and requests. Out
//! of scope: which sequences run (`pool`), and when they start (`queue`).

use super::origin::{Caller, Origin};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// The places that are taken, each by a running or a queued sequence.
#[derive(Debug, Default)]
pub(super) struct Occupancy(watch::Sender<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    callers: BTreeMap<Caller, Holder>,
}

/// What a caller holds. There is none without a place.
#[derive(Debug, Default)]
struct Holder {
    places: usize,
    requests: BTreeMap<u64, Held>,
}

#[derive(Debug, Default)]
struct Held {
    places: usize,
    has_failed: bool,
    has_begun: bool,
}

/// Why a request gets no places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Too few places are free.
    OfAll {
        /// The places that are taken.
        taken: usize,
        /// All places, of running and of queued sequences.
        limit: usize,
        /// Places that the request needs: one for each choice.
        asked: usize,
    },
    /// Places are free, but more than the share of the request's API key.
    OfKey {
        /// The places that the key holds.
        held: usize,
        /// The most that it may hold now: three quarters of what the other keys do not hold.
        share: usize,
        /// Places that the request needs: one for each choice.
        asked: usize,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = |asked: usize| format!("{asked} more {} not fit", if asked == 1 { "does" } else { "do" });
        match *self {
            Self::OfAll { limit, asked, .. } if asked > limit => write!(
                f,
                "the request needs {asked} places, one for each choice, and the server has {limit}; ask for fewer choices"
            ),
            Self::OfAll { taken, limit, asked } => {
                write!(f, "{taken} of {limit} places for running and waiting requests are taken, {}", more(asked))
            }
            Self::OfKey { held, share, asked } => write!(
                f,
                "this API key holds {held} of the {share} places for running and waiting requests that are its share \
                 (three quarters of those that other keys do not hold), {}",
                more(asked)
            ),
        }
    }
}

impl Occupancy {
    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        self.0.borrow().all
    }

    /// Takes places for a request, all or none. Of `limit` places, a caller that is not alone may
    /// hold three quarters of those that the others do not hold, so that a newcomer always finds
    /// some (dynamic thresholds: Choudhury and Hahne, 1998). One place it may always hold.
    ///
    /// # Errors
    /// When there are not so many, or the caller may not hold so many.
    pub(super) fn take(self: &Arc<Self>, origin: Origin, asked: usize, limit: usize) -> Result<Vec<Place>, Shortage> {
        let mut refused = None;
        self.0.send_if_modified(|taken| {
            refused = taken.shortage(origin, asked, limit);
            if refused.is_none() {
                taken.add(origin, asked);
            }
            false // only the end of the last sequence is waited for
        });
        match refused {
            Some(shortage) => Err(shortage),
            None => Ok((0..asked).map(|_| Place { occupancy: Arc::clone(self), origin }).collect()),
        }
    }

    /// Waits until no place is taken.
    pub(super) async fn all_free(&self) {
        let mut taken = self.0.subscribe();
        let _ = taken.wait_for(|taken| taken.all == 0).await; // `self` holds the sender
    }
}

impl Taken {
    fn shortage(&self, Origin { caller, is_alone, .. }: Origin, asked: usize, limit: usize) -> Option<Shortage> {
        if self.all.saturating_add(asked) > limit {
            return Some(Shortage::OfAll { taken: self.all, limit, asked });
        }
        let held = self.callers.get(&caller).map_or(0, |holder| holder.places);
        let share = ((limit - (self.all - held)).saturating_mul(3) / 4).max(1);
        (!is_alone && held + asked > share).then_some(Shortage::OfKey { held, share, asked })
    }

    fn add(&mut self, Origin { caller, request, .. }: Origin, places: usize) {
        self.all += places;
        let holder = self.callers.entry(caller).or_default();
        holder.places += places;
        holder.requests.entry(request).or_default().places += places;
    }

    /// What a request holds.
    fn held(&mut self, Origin { caller, request, .. }: Origin) -> Option<&mut Held> {
        self.callers.get_mut(&caller)?.requests.get_mut(&request)
    }

    fn free(&mut self, Origin { caller, request, .. }: Origin) {
        self.all -= 1;
        let Some(holder) = self.callers.get_mut(&caller) else { return };
        holder.places -= 1;
        if let Some(held) = holder.requests.get_mut(&request) {
            held.places -= 1;
            if held.places == 0 {
                holder.requests.remove(&request);
            }
        }
        if holder.places == 0 {
            self.callers.remove(&caller);
        }
    }
}

/// The place of one sequence. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    occupancy: Arc<Occupancy>,
    origin: Origin,
}

impl Place {
    /// Notes that the sequence has had a place among the running ones.
    pub(super) fn begins(&self) {
        self.occupancy.0.send_if_modified(|taken| {
            if let Some(held) = taken.held(self.origin) {
                held.has_begun = true;
            }
            false
        });
    }

    /// Whether a sequence of the same request has begun, also one that is finished.
    pub(super) fn request_has_begun(&self) -> bool {
        let taken = self.occupancy.0.borrow();
        let holder = taken.callers.get(&self.origin.caller);
        holder.and_then(|holder| holder.requests.get(&self.origin.request)).is_some_and(|held| held.has_begun)
    }

    /// Notes that the sequence has failed. True for the first of the sequences of its request.
    pub(super) fn fails_first(&self) -> bool {
        let mut is_first = false;
        self.occupancy.0.send_if_modified(|taken| {
            let held = taken.held(self.origin);
            is_first = held.is_some_and(|held| !std::mem::replace(&mut held.has_failed, true));
            false
        });
        is_first
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.occupancy.0.send_if_modified(|taken| {
            taken.free(self.origin);
            taken.all == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8) -> Origin {
        Origin::new(Some([name; 32]))
    }

    fn held(places: Result<Vec<Place>, Shortage>) -> Vec<Place> {
        places.unwrap_or_else(|shortage| panic!("{shortage}"))
    }

    #[test]
    fn every_key_that_comes_finds_places() {
        let occupancy = Arc::new(Occupancy::default());
        let mut all = Vec::new();
        // each takes as many as it may, one after the other
        for (name, most) in [(1, 240), (2, 60), (3, 15), (4, 3), (5, 1), (6, 1)] {
            let before = all.len();
            while let Ok(places) = occupancy.take(key(name), 1, 320) {
                all.extend(places);
            }
            assert_eq!(all.len() - before, most, "key {name}");
        }
        assert_eq!(occupancy.take(key(7), 1, 320).unwrap_err(), Shortage::OfAll { taken: 320, limit: 320, asked: 1 });
        drop(all);
        assert_eq!(occupancy.taken(), 0);
        assert!(occupancy.0.borrow().callers.is_empty(), "nothing is left of who came");
    }

    #[test]
    fn few_places_are_not_out_of_reach() {
        for limit in 1..4 {
            let occupancy = Arc::new(Occupancy::default());
            drop(held(occupancy.take(key(1), 1, limit)));
            drop(held(occupancy.take(key(1).alone(), limit, limit)));
            drop(held(occupancy.take(Origin::new(None), limit, limit)));
        }
    }

    #[test]
    fn what_is_held_asked_and_allowed_is_said() {
        let occupancy = Arc::new(Occupancy::default());
        let _first = held(occupancy.take(key(1), 128, 320));
        let shortage = occupancy.take(key(1), 128, 320).unwrap_err();
        assert_eq!(
            shortage.to_string(),
            "this API key holds 128 of the 240 places for running and waiting requests that are its share (three \
             quarters of those that other keys do not hold), 128 more do not fit"
        );
        let _others = held(occupancy.take(Origin::new(None), 128, 320));
        let shortage = occupancy.take(Origin::new(None), 128, 320).unwrap_err();
        let said = "256 of 320 places for running and waiting requests are taken, 128 more do not fit";
        assert_eq!(shortage.to_string(), said);
        let never = occupancy.take(Origin::new(None), 400, 320).unwrap_err();
        let said = "the request needs 400 places, one for each choice, and the server has 320; ask for fewer choices";
        assert_eq!(never.to_string(), said);
    }

    #[test]
    fn one_failure_of_a_request_is_the_first() {
        let occupancy = Arc::new(Occupancy::default());
        let (one, other) = (held(occupancy.take(key(1), 3, 320)), held(occupancy.take(key(1), 1, 320)));
        assert_eq!(one.iter().map(Place::fails_first).collect::<Vec<_>>(), [true, false, false]);
        assert!(other[0].fails_first(), "another request");
    }

    #[test]
    fn a_request_has_begun_with_its_first_sequence() {
        let occupancy = Arc::new(Occupancy::default());
        let (mut one, other) = (held(occupancy.take(key(1), 3, 320)), held(occupancy.take(key(1), 1, 320)));
        assert!(!one[1].request_has_begun());
        one[0].begins();
        drop(one.remove(0)); // it is finished
        assert!(one.iter().all(Place::request_has_begun) && !other[0].request_has_begun());
    }
}
