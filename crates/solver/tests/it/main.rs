//! The solver as others see it, with synthetic ops. Every file of this folder is a module below.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod keys;
mod model;
mod random;
mod sharing;

#[test]
fn no_test_file_is_forgotten() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["keys.rs", "main.rs", "model.rs", "random.rs", "sharing.rs"]);
}
