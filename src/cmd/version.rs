//! The version of the program.

/// The version, with the commit that it was built from, where that is known.
pub(super) const VERSION: &str = env!("BUILD_VERSION");

/// The commit that it was built from, or nothing.
pub(super) const REVISION: &str = env!("BUILD_COMMIT");
