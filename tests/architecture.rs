//! The house rules of `src/`, read from its text: who may import whom, which crate may appear where, and how a file
//! looks. What a rule is worth is shown below it, on sources that break it.

use std::path::Path;

/// The modules each module may import, itself always. Anything else points up or sideways.
const LAYERS: [(&str, &[&str]); 8] = [
    ("diffusion", &[]),
    ("text", &["diffusion"]),
    ("model", &["diffusion"]),
    ("telemetry", &["diffusion"]),
    ("engine", &["diffusion", "text", "model", "telemetry"]),
    ("train", &["diffusion", "text", "model"]),
    ("api", &["diffusion", "text", "model", "engine", "telemetry"]),
    ("cmd", &["diffusion", "text", "model", "engine", "telemetry", "train", "api"]),
];

/// Families of crates (`candle` stands for `candle_core` too) and the modules they may appear in.
const CRATES: [(&str, &[&str]); 6] = [
    ("candle", &["model", "train"]),
    ("axum", &["api", "cmd"]),
    ("tonic", &["api", "cmd"]),
    ("anyhow", &["cmd"]),
    ("indicatif", &["cmd"]),
    ("plotters", &["cmd"]),
];

/// Families that have no place in the algorithm.
const IMPURE: [&str; 2] = ["serde", "tokio"];

/// Files that differ by feature: where a device is opened, and kernels.
const FEATURED: [&str; 2] = ["model/device.rs", "model/backend/cuda/summary.rs"];

const LINES_MAX: usize = 400;

/// Files that may be longer, and how long they are today. A number here only ever falls.
const LONGER: [(&str, usize); 0] = [];

/// A file of `src/`, named by its path below it.
struct File {
    name: String,
    text: String,
}

impl File {
    /// The modules it lies in, outermost first.
    fn module(&self) -> Vec<&str> {
        let name = self.name.trim_end_matches(".rs").trim_end_matches("/mod");
        name.split('/').collect()
    }

    fn top(&self) -> &str {
        self.module()[0]
    }

    /// The roots of the crate, which see everything.
    fn is_root(&self) -> bool {
        ["lib.rs", "main.rs"].contains(&self.name.as_str())
    }
}

/// Everything in `file` that its layer forbids.
fn faults(file: &File) -> Vec<String> {
    let name = &file.name;
    let top = file.top();
    let Some((_, below)) = LAYERS.iter().find(|(layer, _)| *layer == top) else {
        return vec![format!("{name}: give the module `{top}` a place among the layers")];
    };
    let tokens = tokens(&file.text);
    let mut faults = Vec::new();
    for path in paths(&tokens, &file.module()) {
        match path.split_first() {
            Some((&"crate", rest)) => {
                let seen = rest.first().copied().unwrap_or_default();
                let is_module = LAYERS.iter().any(|(layer, _)| *layer == seen);
                if is_module && seen != top && !below.contains(&seen) {
                    faults.push(format!("{name}: `{top}` may not see `{seen}`"));
                }
            }
            Some((root, _)) => {
                let is_misplaced =
                    |(family, allowed): &&(&str, &[&str])| is_of_family(root, family) && !allowed.contains(&top);
                if let Some((family, allowed)) = CRATES.iter().find(is_misplaced) {
                    faults.push(format!("{name}: `{family}` may only appear in {}", allowed.join(", ")));
                }
                let is_impure = |family: &&&str| top == "diffusion" && is_of_family(root, family);
                if let Some(family) = IMPURE.iter().find(is_impure) {
                    faults.push(format!("{name}: `{family}` has no place in `diffusion`"));
                }
            }
            None => {}
        }
    }
    if !file.text.starts_with("//!") {
        faults.push(format!("{name}: opens without a `//!` line that says its job"));
    }
    let has_cfg = tokens.windows(3).any(|three| matches!(three, [open, "feature", "="] if ["(", ","].contains(open)));
    if has_cfg && !FEATURED.contains(&name.as_str()) {
        faults.push(format!("{name}: `cfg(feature = ..)` belongs in {}", FEATURED.join(", ")));
    }
    faults.dedup();
    faults
}

fn is_of_family(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Files that are too long, longer than their exception allows, or excepted without need.
fn length_faults(files: &[File], longer: &[(&str, usize)]) -> Vec<String> {
    let lines = |name: &str| files.iter().find(|file| file.name == name).map_or(0, |file| file.text.lines().count());
    let too_long = files.iter().filter_map(|file| {
        let allowed = longer.iter().find(|(name, _)| *name == file.name).map_or(LINES_MAX, |(_, lines)| *lines);
        let lines = lines(&file.name);
        (lines > allowed)
            .then(|| format!("{}: {lines} lines, {allowed} are allowed; which noun hides in it?", file.name))
    });
    let needless = longer.iter().filter(|(name, _)| lines(name) <= LINES_MAX);
    too_long.chain(needless.map(|(name, _)| format!("{name}: needs no exception any more"))).collect()
}

/// Words, numbers, `::` and single signs of a source, without comments, strings and characters.
fn tokens(source: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = quoted(rest) {
            length
        } else if word > 0 {
            tokens.push(&rest[..word]);
            word
        } else if first.is_whitespace() {
            first.len_utf8()
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            tokens.push(&rest[..length]);
            length
        };
        rest = &rest[length..];
    }
    tokens
}

/// Bytes of the string or character at the start of `text`, if there is one.
fn quoted(text: &str) -> Option<usize> {
    let body = text.trim_start_matches(['b', 'c']).strip_prefix('r').filter(|body| body.starts_with(['"', '#']));
    if let Some(body) = body {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let body = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return body.find(&end).map(|at| text.len() - body.len() + at + end.len());
    }
    let body = text.trim_start_matches(['b', 'c']);
    let quote = body.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
    let is_lifetime = quote == '\'' && !body[1..].starts_with('\\') && body[1..].chars().nth(1) != Some('\'');
    if is_lifetime || text.len() - body.len() > 1 {
        return None;
    }
    let mut escaped = false;
    let end = body[1..].char_indices().find(|&(_, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map(|(at, quote)| text.len() - body.len() + 1 + at + quote.len_utf8())
}

/// Every path a source names, groups taken apart and `super` resolved: `["crate", "engine", "Job"]`, `["std", "fmt"]`.
fn paths<'a>(tokens: &[&'a str], module: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut here = module.to_vec();
    let mut opened = Vec::new(); // depths of the braces of modules written in place
    let (mut at, mut depth, mut found) = (0, 0, Vec::new());
    while let Some(&token) = tokens.get(at) {
        let before = |back: usize| at.checked_sub(back).map_or("", |index| tokens[index]);
        if before(1) == "use" || (is_word(token) && tokens.get(at + 1) == Some(&"::")) {
            let mut written = Vec::new();
            at += tree(&tokens[at..], &[], &mut written);
            found.extend(written.into_iter().map(|path| resolved(&path, &here)));
            continue;
        }
        if token == "{" {
            depth += 1;
            if before(2) == "mod" {
                here.push(before(1));
                opened.push(depth);
            }
        } else if token == "}" {
            if opened.pop_if(|opened| *opened == depth).is_some() {
                here.pop();
            }
            depth -= 1;
        }
        at += 1;
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Takes the path at the start of `tokens` with its groups apart; returns how many tokens it has.
fn tree<'a>(tokens: &[&'a str], before: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    while let Some(&token) = tokens.get(at) {
        at += 1;
        match token {
            "::" => continue,
            "{" => {
                while tokens.get(at).is_some_and(|token| *token != "}") {
                    at += tree(&tokens[at..], &path, found);
                    let renamed = tokens[at..].iter().take_while(|token| ![",", "}"].contains(token)).count();
                    at += renamed + usize::from(tokens.get(at + renamed) == Some(&","));
                }
                return at + 1;
            }
            name => path.push(name),
        }
        if tokens.get(at) != Some(&"::") {
            break;
        }
    }
    found.push(path);
    at
}

/// The path from the crate's root, or as it is if it starts at another crate (or a name in scope).
fn resolved<'a>(path: &[&'a str], module: &[&'a str]) -> Vec<&'a str> {
    let relative = path.iter().take_while(|word| ["self", "super"].contains(word)).count();
    if relative == 0 {
        return path.to_vec();
    }
    let supers = path[..relative].iter().filter(|word| **word == "super").count();
    let outer = &module[..module.len().saturating_sub(supers)];
    [&["crate"], outer, &path[relative..]].concat()
}

fn read_all(dir: &Path, root: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, root, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.push(File { name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

#[test]
fn every_file_keeps_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read_all(&root, &root, &mut files);
    assert!(files.len() > 30, "only {} files were found", files.len());
    let faults: Vec<String> = files.iter().filter(|file| !file.is_root()).flat_map(faults).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let faults = length_faults(&files, &LONGER);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn file(name: &str, text: &str) -> File {
    File { name: name.to_owned(), text: text.to_owned() }
}

/// The faults of a file with this body, without its name.
#[track_caller]
fn check(name: &str, body: &str, expected: &[&str]) {
    let found = faults(&file(name, &format!("//! A job.\n{body}")));
    let found: Vec<_> = found.iter().map(|fault| fault.split_once(": ").unwrap().1).collect();
    assert_eq!(found, expected, "{name}: {body}");
}

#[test]
fn an_import_that_points_up_or_sideways_is_found() {
    check("engine/job.rs", "use crate::diffusion::Edit;", &[]);
    check("engine/job.rs", "use crate::api::wire;", &["`engine` may not see `api`"]);
    check("text/chat.rs", "use crate::model::ModelSpec;", &["`text` may not see `model`"]);
    check("train/mod.rs", "use crate::engine::Handle;", &["`train` may not see `engine`"]);
    check("api/mod.rs", "use crate::train::Loss;", &["`api` may not see `train`"]);
    check("diffusion/mod.rs", "use crate::telemetry::Metrics;", &["`diffusion` may not see `telemetry`"]);
    check("telemetry.rs", "use crate::engine::Handle;", &["`telemetry` may not see `engine`"]);
    check("cmd/serve.rs", "use crate::{api, engine::Handle, train};", &[]);
    check("sundries.rs", "", &["give the module `sundries` a place among the layers"]);
}

#[test]
fn an_import_is_found_in_every_form() {
    let sees_api = ["`engine` may not see `api`"];
    check("engine/job.rs", "use crate::{diffusion, api::{wire, sse}};", &sees_api);
    check("engine/job.rs", "use crate::{diffusion::{Cell, Edit}, api};", &sees_api);
    check("engine/job.rs", "use {std::fmt, crate::api as wire};", &sees_api);
    check("engine/job.rs", "use super::super::api::wire;", &sees_api);
    check("engine/mod.rs", "use super::api::wire;", &sees_api);
    check("engine/deep/job.rs", "use super::super::{super::api, event};", &sees_api);
    check("engine/job.rs", "use self::super::super::api;", &sees_api);
    check("engine/job.rs", "pub(crate) use crate::api;", &sees_api);
    check("engine/job.rs", "fn f(x: &crate::api::Wire) {}", &sees_api);
    check("engine/job.rs", "mod tests { use super::super::super::api; }", &sees_api);
    check("engine/job.rs", "mod tests { fn f() {} use super::super::api; }", &[]); // engine::api, not crate::api
    check("engine/job.rs", "mod tests { fn f() {} } use super::super::api;", &sees_api);
    check("engine/job.rs", "use crate::engine::api; use super::api; use super::api::Api;", &[]);
    check("engine/job.rs", "use crate::{diffusion as api, text::{self, Tokenizer}, model::*};", &[]);
    check("engine/job.rs", "use crate::{text::{self as api, Tokenizer}, api as wire,};", &sees_api);
    check("engine/job.rs", "fn f() -> Vec::<crate::api::Wire> {}", &sees_api);
    check("engine/job.rs", "fn f() { let a = Edit::Fill { at: crate::api::AT }; }", &sees_api);
}

#[test]
fn words_in_comments_and_strings_are_no_imports() {
    check("engine/job.rs", "// crate::api::wire\n/* use crate::api; */ /// [`crate::api`]\n", &[]);
    check("engine/job.rs", r##"const A: &str = "crate::api"; const B: &str = r#"a " crate::api"#;"##, &[]);
    check("engine/job.rs", r#"const A: &str = "a \" crate::api";"#, &[]);
    let sees_api = ["`engine` may not see `api`"];
    check("engine/job.rs", "fn f<'a>(q: char) { q == '\"'; crate::api::go(); }", &sees_api);
    check("engine/job.rs", r"fn f<'a>(q: char) { q == '\''; crate::api::go(); b'\\'; }", &sees_api);
    check("engine/job.rs", "fn f<'a>(q: &'a str) { r#\"\"#; crate::api::go('\u{e9}'); }", &sees_api);
}

#[test]
fn a_crate_out_of_its_place_is_found() {
    check("model/llada.rs", "use candle_core::Tensor;", &[]);
    check("engine/job.rs", "use candle_core::Tensor;", &["`candle` may only appear in model, train"]);
    check("api/mod.rs", "fn f(t: &candle_nn::Linear) {}", &["`candle` may only appear in model, train"]);
    check("diffusion/edit.rs", "#[derive(serde::Serialize)] struct A;", &["`serde` has no place in `diffusion`"]);
    check("diffusion/edit.rs", "use {std::fmt, serde_json::Value};", &["`serde` has no place in `diffusion`"]);
    check("diffusion/edit.rs", "use tokio::sync::{mpsc, Notify};", &["`tokio` has no place in `diffusion`"]);
    check("engine/job.rs", "use tokio::sync::mpsc;", &[]);
    check("engine/job.rs", "use axum::Json;", &["`axum` may only appear in api, cmd"]);
    check("telemetry.rs", "use tonic::Status;", &["`tonic` may only appear in api, cmd"]);
    check("api/mod.rs", "use anyhow::Result;", &["`anyhow` may only appear in cmd"]);
    check("cmd/mod.rs", "use anyhow::Result;", &[]);
    check("engine/job.rs", "use serdes::A; use candles::B; let axum = 1;", &[]);
}

#[test]
fn a_feature_out_of_its_place_is_found() {
    let fault = ["`cfg(feature = ..)` belongs in model/device.rs, model/backend/cuda/summary.rs"];
    check("model/device.rs", "#[cfg(feature = \"cuda\")] fn f() {}", &[]);
    check("model/llada.rs", "#[cfg(feature = \"cuda\")] fn f() {}", &fault);
    check("model/llada.rs", "#[cfg(not(feature = \"cuda\"))] fn f() {}", &fault);
    check("engine/job.rs", "fn f() { if cfg!(all(test, feature = \"cuda\")) {} }", &fault);
    check("engine/job.rs", "#[cfg(test)] mod tests { fn f() { let feature = 1; } }", &[]);
}

#[test]
fn a_file_that_does_not_say_its_job_is_found() {
    let fault = "engine/job.rs: opens without a `//!` line that says its job";
    assert_eq!(faults(&file("engine/job.rs", "use std::fmt;\n//! too late")), [fault]);
    assert_eq!(faults(&file("engine/job.rs", "")), [fault]);
}

#[test]
fn a_long_file_is_found_and_an_exception_only_shrinks() {
    let lines = |count: usize| file("a.rs", &"x\n".repeat(count));
    let check = |count: usize, longer: &[(&str, usize)], faults: usize| {
        assert_eq!(length_faults(&[lines(count)], longer).len(), faults, "{count} lines, {longer:?}");
    };
    check(400, &[], 0);
    check(401, &[], 1);
    check(450, &[("a.rs", 450)], 0);
    check(451, &[("a.rs", 450)], 1); // it grew
    check(420, &[("a.rs", 450)], 0);
    check(400, &[("a.rs", 450)], 1); // no longer needed
    check(10, &[("gone.rs", 450)], 1);
}
