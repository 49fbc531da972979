//! The house rules: which file may import which, which crate may appear where, and how a file
//! looks. Each rule is also shown on small sources that break it.

mod graph;
mod rooms;
mod rules;
mod source;
mod text;

use source::{Source, find_files};
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of `src/`.
static LIBRARY: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let sources = Source::all(&root().join("src"));
    assert!(sources.len() > 30, "only {} files were found", sources.len());
    sources
});

#[track_caller]
fn check(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_keeps_to_its_place() {
    check(&LIBRARY.iter().flat_map(rules::faults).collect::<Vec<_>>());
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    check(&graph::circle_faults(&LIBRARY));
}

#[test]
fn no_arrow_between_rooms_runs_up() {
    if std::env::var_os("REMASK_SHOW_GRAPH").is_some() {
        // straight to the terminal, for what `eprintln!` says is kept back when a test passes
        std::io::stderr().write_all(rooms::show(&LIBRARY).as_bytes()).unwrap();
    }
    check(&rooms::room_faults(&LIBRARY));
}

#[test]
fn files_are_short_and_prose_is_narrow() {
    let (mut rust, mut markdown) = (Vec::new(), Vec::new());
    for dir in ["src", "tests"] {
        find_files(&root().join(dir), root(), "rs", &mut rust);
    }
    find_files(root(), root(), "md", &mut markdown);
    assert!(rust.len() > 60 && markdown.len() > 5, "{} and {} files were found", rust.len(), markdown.len());
    let rust = rust.iter().flat_map(|(name, text)| text::rust_faults(name, text));
    let markdown = markdown.iter().flat_map(|(name, text)| text::markdown_faults(name, text));
    check(&rust.chain(markdown).collect::<Vec<_>>());
}
