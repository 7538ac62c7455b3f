//! Sources against a store on disk, a real registry, and a web server of our own.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, their helpers too")]

mod http;
mod image;
mod place;
mod web;

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
