//! Configurations, one file a family.

pub(crate) mod llada;
pub(crate) mod llada_switches;
pub(crate) mod strict;
