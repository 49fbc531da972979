//! Turns `proto/` into the gRPC service, its client (for tests) and the descriptors that reflection
//! tells, without protoc; and the version, with the commit of a release build.

use std::path::PathBuf;
use std::process::Command;
use std::{env, error, fs};

const PROTO: &str = "remask/v1/remask.proto";

fn main() -> Result<(), Box<dyn error::Error>> {
    version();
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file(PROTO)?; // comments become documentation
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("remask.bin"), compiler.encode_file_descriptor_set())?;
    let settings = tonic_prost_build::configure().build_transport(false).btree_map(".");
    settings.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Sets the version and the commit: `REMASK_COMMIT` where there is no repository, as in a container,
/// what an archive of the sources says, or git's. Builds for development in a repository have none:
/// they would be compiled anew after each commit.
fn version() {
    println!("cargo:rerun-if-env-changed=REMASK_COMMIT");
    let given = env::var("REMASK_COMMIT").ok().filter(|commit| !["", "unknown"].contains(&commit.as_str()));
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(archived).or_else(|| is_release.then(commit).flatten());
    let commit: String = commit.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = if commit.is_empty() { version } else { format!("{version} ({commit})") };
    // `cargo run` sets these for the program as well, so they must not be variables that it reads
    println!("cargo:rustc-env=BUILD_VERSION={version}");
    println!("cargo:rustc-env=BUILD_COMMIT={commit}");
}

/// The commit of which these sources are an archive. `git archive` and GitHub's downloads write it
/// into `.commit` (see `.gitattributes`), `cargo package` into a file of its own.
fn archived() -> Option<String> {
    let is_commit = |word: &&str| word.len() >= 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    [".commit", ".cargo_vcs_info.json"].into_iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        println!("cargo:rerun-if-changed={file}"); // a file that does not exist counts as changed
        text.split(|c: char| !c.is_ascii_alphanumeric()).find(is_commit).map(str::to_owned)
    })
}

/// The commit of this directory's own repository; `None` without git, or in an unpacked package.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    git(&["ls-files", "--error-unmatch", "build.rs"])?; // not the repository of a directory around it
    println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    git(&["rev-parse", "HEAD"])
}
