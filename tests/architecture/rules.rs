//! What one file of `src/` may hold: imports of the layers below, crates in their modules, and
//! devices in theirs.

use crate::source::Source;

/// The modules each module may import, itself always. Anything else points up or sideways.
const LAYERS: [(&str, &[&str]); 9] = [
    ("files", &[]),
    ("diffusion", &[]),
    ("text", &["diffusion", "files"]),
    ("model", &["diffusion", "files"]),
    ("telemetry", &["diffusion"]),
    ("engine", &["diffusion", "text", "model", "telemetry"]),
    ("train", &["diffusion", "text", "model", "files"]),
    ("api", &["diffusion", "text", "model", "engine", "telemetry", "files"]),
    ("cmd", &["diffusion", "text", "model", "engine", "telemetry", "train", "api", "files"]),
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

/// Where code may depend on the device and on the features of the build: folders and files.
const DEVICES: [&str; 2] = ["model/backend/", "model/device.rs"];

/// Everything in a file that its place forbids.
pub(crate) fn faults(source: &Source) -> Vec<String> {
    let name = &source.name;
    let mut faults = if source.is_root() { Vec::new() } else { path_faults(source) };
    if !source.is_root() && !source.text.starts_with("//!") {
        faults.push(format!("{name}: opens without a `//!` line that says its job"));
    }
    if !DEVICES.iter().any(|place| name.starts_with(place)) {
        let places = DEVICES.join(" and ");
        if source.has_feature {
            faults.push(format!("{name}: `cfg(feature = ..)` belongs in {places}"));
        }
        if source.has_is_cpu {
            faults.push(format!("{name}: `is_cpu` belongs in {places}"));
        }
    }
    faults.dedup();
    faults
}

fn path_faults(source: &Source) -> Vec<String> {
    let (name, top) = (&source.name, source.top());
    let Some((_, below)) = LAYERS.iter().find(|(layer, _)| *layer == top) else {
        return vec![format!("{name}: give the module `{top}` a place among the layers")];
    };
    let mut faults = Vec::new();
    for reference in &source.references {
        match source.absolute(reference).split_first() {
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
    faults
}

fn is_of_family(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// The faults of a file with this body, without its name.
#[track_caller]
fn check(name: &str, body: &str, expected: &[&str]) {
    let found = faults(&Source::new(name, &format!("//! A job.\n{body}")));
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
    check("engine/job.rs", "use crate::api::*;", &sees_api);
    check("engine/job.rs", "pub(crate) use crate::api;", &sees_api);
    check("engine/job.rs", "fn f(x: &crate::api::Wire) {}", &sees_api);
    check("engine/job.rs", "fn f() { println!(\"{}\", crate::api::AT); }", &sees_api);
    check("engine/job.rs", "#[cfg(test)] mod tests { use super::super::super::api; }", &sees_api);
    check("engine/job.rs", "mod tests { fn f() {} use super::super::api; }", &[]); // engine::api, not crate::api
    check("engine/job.rs", "mod tests { fn f() {} } use super::super::api;", &sees_api);
    check("engine/job.rs", "use crate::engine::api; use super::api; use super::api::Api;", &[]);
    check("engine/job.rs", "use crate::{diffusion as api, text::{self, Tokenizer}, model::*};", &[]);
    check("engine/job.rs", "use crate::{text::{self as api, Tokenizer}, api as wire,};", &sees_api);
    check("engine/job.rs", "fn f() -> Vec::<crate::api::Wire> {}", &sees_api);
    check("engine/job.rs", "fn f() { let a = Edit::Fill { at: crate::api::AT }; }", &sees_api);
    check("engine/job.rs", "macro_rules! m { () => { $crate::api::go() } }", &sees_api);
}

#[test]
fn words_in_comments_and_strings_are_no_imports() {
    check("engine/job.rs", "// crate::api::wire\n/* use crate::api; */ /// [`crate::api`]\nstruct A;", &[]);
    check("engine/job.rs", r##"const A: &str = "crate::api"; const B: &str = r#"a " crate::api"#;"##, &[]);
    check("engine/job.rs", r#"fn f() { println!("a \" crate::api is_cpu cfg(feature = 1)"); }"#, &[]);
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
    check("engine/job.rs", "use serdes::A; use candles::B; fn f() { let axum = 1; }", &[]);
}

#[test]
fn a_feature_out_of_its_place_is_found() {
    let fault = ["`cfg(feature = ..)` belongs in model/backend/ and model/device.rs"];
    check("model/device.rs", "#[cfg(feature = \"cuda\")] fn f() {}", &[]);
    check("model/backend/cuda/mod.rs", "#![cfg(feature = \"cuda\")] fn f() {}", &[]);
    check("model/llada.rs", "#[cfg(feature = \"cuda\")] fn f() {}", &fault);
    check("model/llada.rs", "#[cfg(not(feature = \"cuda\"))] fn f() {}", &fault);
    check("model/llada.rs", "#![cfg_attr(feature = \"cuda\", allow(unsafe_code))]", &fault);
    check("model/llada.rs", "impl A { #[cfg(feature = \"cuda\")] const B: u8 = 1; }", &fault);
    check("model/llada.rs", "fn f() { match a { #[cfg(feature = \"cuda\")] A => 1, _ => 2 } }", &fault);
    check("engine/job.rs", "fn f() { if cfg!(all(test, feature = \"cuda\")) {} }", &fault);
    check("engine/job.rs", "fn f() { assert!(cfg!(feature = \"cuda\")); }", &fault);
    check("lib.rs", "#[cfg(feature = \"cuda\")] mod a;", &fault);
    check("engine/job.rs", "#[cfg(test)] mod tests { fn f() { let feature = 1; info!(feature = \"a\"); } }", &[]);
}

#[test]
fn a_question_about_the_device_out_of_its_place_is_found() {
    let fault = ["`is_cpu` belongs in model/backend/ and model/device.rs"];
    check("model/device.rs", "fn f(device: Device) -> bool { device.is_cpu() }", &[]);
    check("model/backend/cpu.rs", "fn f(device: Device) -> bool { device.is_cpu() }", &[]);
    check("model/llada.rs", "fn f(device: Device) -> bool { device.is_cpu() }", &fault);
    check("train/ops.rs", "fn f() { assert!(!x.device().is_cpu()); }", &fault);
    check("train/ops.rs", "struct A { is_cpu: bool }", &fault);
    check("train/ops.rs", "/// Not `is_cpu`.\nfn is_cpu_time() {}", &[]);
}

#[test]
fn a_file_that_does_not_say_its_job_is_found() {
    let fault = "engine/job.rs: opens without a `//!` line that says its job";
    assert_eq!(faults(&Source::new("engine/job.rs", "use std::fmt;\n/// too late\nstruct A;")), [fault]);
    assert_eq!(faults(&Source::new("engine/job.rs", "")), [fault]);
}
