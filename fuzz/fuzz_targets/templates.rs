//! Templates with blanks, and what stands for a blank.
#![no_main]

mod server;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|given: (String, Option<String>)| {
    let (template, blank) = given;
    server::post("/v1/infill", serde_json::json!({"template": template, "blank": blank}).to_string());
});
