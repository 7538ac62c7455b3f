//! Kept inputs, for the tests of the crates that they are about (which include this file).
//!
//! `corpus/<target>.txt` has one input a line, its bytes as Rust writes them within `b"…"`.

use std::path::Path;

/// The kept inputs of a target.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    let path = folder.join(target).with_extension("txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let inputs: Vec<Vec<u8>> = text.lines().map(unescape).collect();
    assert!(inputs.len() > 10, "{}: only {} inputs", path.display(), inputs.len());
    inputs
}

/// What `escape_ascii` made.
pub(crate) fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, if byte == b'\\' { rest.next() } else { None }) {
            (_, Some(b'n')) => b'\n',
            (_, Some(b'r')) => b'\r',
            (_, Some(b't')) => b'\t',
            (_, Some(b'x')) => {
                let digit = |rest: &mut std::str::Bytes<'_>| {
                    let digit = rest.next().and_then(|digit| char::from(digit).to_digit(16));
                    digit.and_then(|digit| u8::try_from(digit).ok()).expect("two digits follow \\x")
                };
                digit(&mut rest) << 4 | digit(&mut rest)
            }
            (_, Some(escaped)) => escaped,
            (plain, None) => plain,
        });
    }
    bytes
}
