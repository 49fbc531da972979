//! Networks, one file a family.

pub(crate) mod dit;
pub(crate) mod head;
pub(crate) mod llada;
