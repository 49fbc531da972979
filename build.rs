//! Turns `proto/` into the gRPC service, its client (for tests) and the descriptors that reflection tells. Needs no protoc.

use std::path::PathBuf;
use std::{env, error, fs};

const PROTO: &str = "remask/v1/remask.proto";

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file(PROTO)?; // comments become documentation
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("remask.bin"), compiler.encode_file_descriptor_set())?;
    let settings = tonic_prost_build::configure().build_transport(false).btree_map(".");
    settings.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
