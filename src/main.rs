//! The program; everything it does is in `remask::cmd`.

fn main() -> std::process::ExitCode {
    remask::cmd::run()
}
