//! Networks, one file a family, and the parts that they share.

mod block;
pub(crate) mod dit;
pub(crate) mod head;
pub(crate) mod llada;
mod piece;
pub(crate) mod remedi;
pub(crate) mod rope;
