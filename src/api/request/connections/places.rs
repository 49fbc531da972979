//! The places for connections: how many there are, who holds them, and who gives one up when there
//! are too few.

use super::activity::Activity;
use rustix::process::{Resource, getrlimit};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

/// Files that are not available to connections: weights, keys, listening sockets.
const OTHER_FILES: u64 = 64;
/// Limit on connections where the system sets no limit on open files.
const CONNECTIONS_MAX: u64 = 1 << 20;
/// Shortest time between two warnings that the limit is reached.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How long a connection waits for its client before its place may be given to another one.
const SPARED: Duration = Duration::from_millis(250);
/// Time between two looks for a connection whose place can be given on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Limit on connections that wait for a place.
const WAITERS_MAX: usize = 8;

/// The clients of one address, or of one IPv6 network of 64 bits, which one host may have.
type Network = IpAddr;

fn network(address: IpAddr) -> Network {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

/// The places for connections.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    /// Most places of one network.
    share: usize,
    waiters: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// All places are taken.
    OfAll,
    /// The address has its share of them.
    OfAddress,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: BTreeMap<u64, (Network, Arc<Activity>)>,
    counts: HashMap<Network, usize>,
    warned: Option<Instant>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// As many places as the limit on open files allows, less [`OTHER_FILES`].
    pub(crate) fn by_open_files() -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(CONNECTIONS_MAX);
        let places = files.saturating_sub(OTHER_FILES).max(files / 2).clamp(1, CONNECTIONS_MAX);
        Self::new(usize::try_from(places).unwrap_or(1))
    }

    /// `count` places, of which one network may have three quarters.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let share = (count - count / 4).max(1);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count)),
            share,
            waiters: Arc::new(Semaphore::new(WAITERS_MAX)),
            taken: Mutex::default(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, if there is one for this address.
    pub(super) fn try_take(self: &Arc<Self>, address: IpAddr, activity: &Arc<Activity>) -> Result<Place, TooMany> {
        let network = network(address);
        if self.has_share(network) {
            return Err(TooMany::OfAddress);
        }
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| TooMany::OfAll)?;
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        taken.connections.insert(number, (network, Arc::clone(activity)));
        *taken.counts.entry(network).or_default() += 1;
        Ok(Place { places: Arc::clone(self), number, _permit: permit })
    }

    /// Waits for a place. Meanwhile closes connections that wait for their clients.
    pub(super) async fn take(self: &Arc<Self>, address: IpAddr, activity: &Arc<Activity>) -> Place {
        loop {
            match self.try_take(address, activity) {
                Ok(place) => return place,
                Err(TooMany::OfAll) => self.make_room(None),
                Err(TooMany::OfAddress) => self.make_room(Some(network(address))),
            }
            self.warn();
            sleep(LOOK_EVERY).await;
        }
    }

    /// The right to wait for a place: how many may do so is limited, because they are open files.
    pub(super) fn waiters(&self) -> Arc<Semaphore> {
        Arc::clone(&self.waiters)
    }

    fn has_share(&self, network: Network) -> bool {
        self.taken().counts.get(&network).is_some_and(|count| *count >= self.share)
    }

    fn warn(&self) {
        let warned = &mut self.taken().warned;
        if warned.is_none_or(|warned| warned.elapsed() > WARN_EVERY) {
            tracing::warn!(
                "there are as many connections as the limit on open files allows, or as one address may have; further \
                 ones wait, and those that wait for their clients are closed"
            );
            *warned = Some(Instant::now());
        }
    }

    /// Closes the connection that has waited longest for its client: one of this network, or of the
    /// network with most connections.
    fn make_room(&self, network: Option<Network>) {
        let taken = self.taken();
        let waiting = taken.connections.values().filter(|(of, _)| network.is_none_or(|network| network == *of));
        let waiting = waiting.filter_map(|(of, activity)| Some((of, activity.waits_since()?, activity)));
        let first = waiting.min_by_key(|(of, since, _)| (Reverse(taken.counts.get(of).copied()), *since));
        if let Some((_, since, activity)) = first
            && since.elapsed() >= SPARED
        {
            activity.give_up();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        let Some((network, _)) = taken.connections.remove(&self.number) else { return };
        if let Some(count) = taken.counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                taken.counts.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::OpenRequest;
    use super::*;
    use tokio::time::{advance, timeout};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);

    #[test]
    fn one_address_leaves_a_quarter_to_others() {
        let (places, connection) = (Places::new(8), Activity::new());
        let mut held: Vec<_> = (0..6).map(|_| places.try_take(HERE, &connection).unwrap()).collect();
        assert_eq!(places.try_take(HERE, &connection).unwrap_err(), TooMany::OfAddress);
        held.extend((0..2).map(|_| places.try_take(THERE, &connection).unwrap()));
        assert_eq!(places.try_take(THERE, &connection).unwrap_err(), TooMany::OfAll);
        held.remove(0);
        assert!(places.try_take(HERE, &connection).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_wait_the_largest_holder_gives_up_its_oldest() {
        let places = Places::new(4);
        let other = Activity::new();
        let _other = places.try_take(THERE, &other).unwrap();
        advance(SPARED).await;
        let all = [Activity::new(), Activity::new(), Activity::new()];
        let working = OpenRequest::new(&all[0]);
        working.is_at_work(true);
        let mut held = Vec::new();
        for activity in &all {
            held.push(places.try_take(HERE, activity).unwrap());
            advance(SPARED / 4).await;
        }
        let newcomer = Activity::new();
        let place = places.take(IpAddr::V6(Ipv6Addr::LOCALHOST), &newcomer);
        let close = async {
            all[1].expired().await;
            drop(held.remove(1)); // as its connection does
        };
        timeout(9 * SPARED, futures_util::future::join(place, close)).await.unwrap();
        for spared in [&all[0], &all[2], &other] {
            assert!(timeout(SPARED, spared.expired()).await.is_err());
        }
    }

    #[test]
    fn a_host_of_ipv6_is_its_network_of_64_bits() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1:2:3"), network("2001:db8::9"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8::1"));
        assert_eq!(network("::ffff:127.0.0.1"), HERE);
    }
}
