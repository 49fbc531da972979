//! `/openapi.json` and `/docs`: the document is well formed and lists exactly the endpoints, its
//! examples work, and answers, errors and fields match it.

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod document;
mod fields;
mod shape;
