//! What a network asks of the device it is computed on.

pub(crate) mod attention;
pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod linear;
