//! Names in paths, such as the id of `/v1/requests/{id}`.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;

/// The extractor of the one name in a path.
pub(crate) type PathName = Result<Path<String>, PathRejection>;

/// The name. One that is not UTF-8 becomes a text that nothing is named.
pub(crate) fn name(name: PathName) -> String {
    name.map_or_else(|_| "\u{fffd}".to_owned(), |Path(name)| name)
}
