//! Configurations, one file a family, read strictly: a model that would be computed wrongly is an
//! error that names the key. Out of scope: weights.

pub(crate) mod dit;
mod generation;
pub(crate) mod llada;
pub(crate) mod strict;
