//! Generates the wire types from `proto/`, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["task", "tasks", "endpoint", "worker"].map(|name| format!("proto/speckled/v1/{name}.proto"));
    let compiled = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(compiled)?;
    Ok(())
}
