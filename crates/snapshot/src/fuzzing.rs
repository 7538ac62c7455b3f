//! What fuzz targets call: a function takes any bytes and panics if a claim about the crate does not hold.
//! Compiled for tests, which replay the kept inputs, and for `tests/fuzz` only.

#[cfg(test)]
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use rbuild_oci::layer::LayerReader;
use rbuild_sys::Root;

use crate::{Applier, LayerForm};

const BLOCK: usize = 512;
/// More than this is not unpacked here: an archive of a few bytes may say that a file has a hole of any size.
const MAX_CONTENT: usize = 64 << 10;

/// A layer archive, as it comes and with the checksums of its headers made right, which no mutation would ever do.
///
/// Claims: reading ends, and gives no more bytes than there are, but for the zeros in holes of sparse files; unpacking
/// in either form writes nothing outside of the directory and changes nothing there, whatever links, whiteouts and
/// names the archive has; what is unpacked can be removed.
pub fn layer(data: &[u8]) {
    reads(data);
    let mended = mended(data);
    if !reads(&mended) {
        return;
    }
    for form in [LayerForm::Overlay, LayerForm::Full] {
        unpacks(&mended, form);
    }
}

/// Whether it was read to its end, or to an error; holes may be endless.
fn reads(archive: &[u8]) -> bool {
    let mut reader = LayerReader::new(archive).end_mark_optional();
    let (mut data, mut content, mut buffer) = (0, 0, [0; 4096]);
    while let Ok(Some(_)) = reader.next_entry() {
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            content += count;
            data += buffer[..count].iter().filter(|byte| **byte != 0).count();
            if content > MAX_CONTENT {
                return false;
            }
        }
    }
    assert!(data <= archive.len(), "{data} bytes of content in {}", archive.len());
    true
}

fn unpacks(archive: &[u8], form: LayerForm) {
    let outer = tempfile::tempdir().expect("a temporary directory");
    let (to, canary) = (outer.path().join("to"), outer.path().join("canary"));
    std::fs::create_dir(&to).expect("a directory in it");
    std::fs::write(&canary, b"canary").expect("a file in it");
    let before = std::fs::metadata(&canary).expect("it was written");
    let root = Root::open(&to).expect("the directory is there");
    let applied = Applier::new(&root, form).apply(archive);
    drop(applied);
    let after = std::fs::metadata(&canary).expect("the file beside the directory is there still");
    let state = |meta: &std::fs::Metadata| (meta.ino(), meta.mode(), meta.nlink(), meta.mtime(), meta.uid());
    assert_eq!(state(&after), state(&before));
    assert_eq!(std::fs::read(&canary).expect("it can be read"), b"canary");
    assert_eq!(std::fs::read_dir(outer.path()).expect("it is there still").count(), 2);
    outer.close().expect("what was unpacked can be removed");
}

/// The archive with right checksums, as far as sizes lead from one header to the next.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut archive = data.to_vec();
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = header[124..136].iter().skip_while(|byte| **byte == b' ');
        let digits = digits.take_while(|byte| (b'0'..=b'7').contains(byte));
        let size = digits.fold(0_usize, |size, digit| size.wrapping_mul(8) + usize::from(digit - b'0'));
        at += BLOCK + size.min(data.len()).next_multiple_of(BLOCK);
    }
    archive
}

#[cfg(test)]
mod tests {
    #[test]
    fn root_kept_inputs_of_layer_hold() {
        super::replay::corpus("layer").iter().for_each(|input| super::layer(input));
    }
}
