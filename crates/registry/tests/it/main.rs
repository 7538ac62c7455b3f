//! The registry client against a real registry (Debian's `docker-registry`) and against a hostile server of our own.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, their helpers too")]

mod auth;
mod hostile;
mod mirrors;
mod pull;
mod push;
mod real;

/// The files of this folder, so that none is forgotten above.
#[test]
fn every_file_is_part_of_this_test() {
    let main = include_str!("main.rs");
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name}");
    }
}
