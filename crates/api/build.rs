//! Generates the wire types from `proto/` without a system `protoc`.
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut files: Vec<_> = std::fs::read_dir(&root)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "proto"))
        .collect();
    files.sort();
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [&root])?;
    tonic_prost_build::configure()
        .btree_map(".") // deterministic encoding: digests are taken of these bytes
        .bytes(".moby.buildkit.v1.BytesMessage") // a session's bytes pass without another copy
        .build_transport(true)
        .compile_fds(descriptors)?;
    Ok(())
}
