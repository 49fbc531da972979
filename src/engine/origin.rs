//! Whose a request is, which decides when it starts. Out of scope: what it asks for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Those who get their turns one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Caller {
    /// An API key, by its digest.
    Key([u8; 32]),
    /// A request without a key.
    Request(u64),
}

/// Where a request comes from. Starts rotate between callers, and then between the requests of a
/// caller. A caller is an API key; a request without a key is a caller of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub(super) caller: Caller,
    /// All that is submitted with the same number is one request.
    pub(super) request: u64,
    /// Whether there is nobody else to leave places of the queue to.
    pub(super) is_alone: bool,
}

impl Origin {
    /// The origin of a new request, with the digest of its API key. Clones are the same request. A
    /// key leaves places of the queue to other keys; requests without a key do not.
    pub fn new(key: Option<[u8; 32]>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let request = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { caller: key.map_or(Caller::Request(request), Caller::Key), request, is_alone: key.is_none() }
    }

    /// The same, of the only API key of a server: it may hold every place of the queue.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }
}
