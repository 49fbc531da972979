//! `/openapi.json` and `/docs`: the document is well formed, about every endpoint and nothing else, its examples work, and what it
//! says of answers, refusals and fields is what the server does.

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod document;
mod fields;
mod shape;
