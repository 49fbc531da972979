//! Networks, one file a family, and the parts that they share.

pub(crate) mod dit;
pub(crate) mod head;
pub(crate) mod llada;
pub(crate) mod rope;
