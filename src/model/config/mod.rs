//! Configurations, one file a family. A key that would make the computation wrong is an error.

pub(crate) mod dit;
mod dream;
pub(crate) mod family;
mod generation;
pub(crate) mod llada;
pub(crate) mod names;
pub(crate) mod remedi;
pub(crate) mod strict;
#[cfg(test)]
mod tests;
