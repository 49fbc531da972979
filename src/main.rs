//! The program; everything it does is in `remask::cmd`.

/// Under glibc's allocator resident memory grew for half an hour of soak, though what was in use did not (`benches/RESULTS.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(unsafe_code)]
fn main() -> std::process::ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { remask::model::settle_threads(remask::cmd::threads()) };
    remask::cmd::run()
}
