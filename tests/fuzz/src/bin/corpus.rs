//! Kept inputs: one text file per target in the repository, a folder of files for the fuzzer.
//!
//! `corpus unpack FILE FOLDER` and `corpus pack FOLDER FILE`.

#[path = "../replay.rs"]
#[allow(dead_code, reason = "the tests of the crates read whole files")]
mod replay;

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["unpack", file, folder] => unpack(Path::new(file), Path::new(folder)),
        ["pack", folder, file] => pack(Path::new(folder), Path::new(file)),
        _ => Err(io::Error::other("usage: corpus unpack FILE FOLDER | corpus pack FOLDER FILE")),
    }
}

fn unpack(file: &Path, folder: &Path) -> io::Result<()> {
    for (number, line) in std::fs::read_to_string(file)?.lines().enumerate() {
        std::fs::write(folder.join(format!("kept-{number:05}")), replay::unescape(line))?;
    }
    Ok(())
}

/// Short inputs first, so that the file changes little when inputs are added.
fn pack(folder: &Path, file: &Path) -> io::Result<()> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        inputs.push(std::fs::read(entry?.path())?);
    }
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let lines: String = inputs.iter().map(|input| format!("{}\n", input.escape_ascii())).collect();
    std::fs::write(file, lines)
}
