//! The worker with a real store, a real sandbox and a made-up image. Every file of this folder is a module below; the
//! tests need root.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod cache;
mod fixture;
mod steps;

rbuild_exec::install_init!();

#[test]
fn no_test_file_is_forgotten() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["cache.rs", "fixture.rs", "main.rs", "steps.rs"]);
}
