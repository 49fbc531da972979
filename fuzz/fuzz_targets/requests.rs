//! Bodies of every endpoint: the first byte picks one.
#![no_main]

mod server;

use libfuzzer_sys::fuzz_target;

const PATHS: [&str; 7] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/infill",
    "/v1/score",
    "/v1/repair",
    "/tokenize",
    "/detokenize",
];

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else { return };
    server::post(PATHS[usize::from(*first) % PATHS.len()], body.to_vec());
});
