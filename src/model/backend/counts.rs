//! How often a device is spoken to.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a device was asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kernels launched, products of matrices included.
    pub launches: u64,
    /// Copies from or to the host.
    pub copies: u64,
    /// Times that the host waited for the device.
    pub waits: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.launches += more.launches;
        self.copies += more.copies;
        self.waits += more.waits;
    }
}

impl std::ops::Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            launches: self.launches - earlier.launches,
            copies: self.copies - earlier.copies,
            waits: self.waits - earlier.waits,
        }
    }
}

/// [`Counts`] that grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    launches: AtomicU64,
    copies: AtomicU64,
    waits: AtomicU64,
}

impl Counters {
    pub(crate) fn launched(&self, kernels: u64) {
        self.launches.fetch_add(kernels, Ordering::Relaxed);
    }

    pub(crate) fn copied(&self) {
        self.copies.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waited(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            launches: self.launches.load(Ordering::Relaxed),
            copies: self.copies.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
        }
    }
}
