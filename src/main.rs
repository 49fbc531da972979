//! The program; everything it does is in `remask::cmd`.

#[allow(unsafe_code)]
fn main() -> std::process::ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { remask::model::settle_threads(remask::cmd::threads()) };
    remask::cmd::run()
}
