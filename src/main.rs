//! The `remask` binary; its commands are in `remask::cmd`.

/// With glibc's allocator, resident memory kept growing in a soak test of half an hour although the
/// memory in use did not (`benches/RESULTS.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(unsafe_code)]
fn main() -> std::process::ExitCode {
    // SAFETY: no other thread runs yet.
    let environment = unsafe { remask::cmd::Environment::settle(&remask::cmd::command()) };
    remask::cmd::run(&environment)
}
