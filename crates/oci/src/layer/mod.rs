//! The layer archive codec: tar as images use it.
//!
//! [`LayerReader`] streams entries out of an uncompressed tar, whatever dialect it is in (v7, ustar, GNU, PAX), and
//! hands back cleaned paths relative to the root. [`LayerWriter`] writes the one dialect that Go's archive/tar
//! picks for the headers upstream makes, so that digests line up.
//!
//! ```text
//! entry = [PAX records: header block 'x', records, padding] header block (512) | data | padding to 512
//! end   = two zero blocks
//! ```
//!
//! Neither touches a file system: applying entries safely is the snapshot room's job. What is promised here: no
//! path climbs above the root, extended headers are bounded, numbers are checked, an early end is an error.
//! Sources: POSIX pax interchange format; GNU tar manual, "Basic Tar Format"; OCI image-spec, "Image Layer".

mod entry;
mod error;
mod numeric;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use entry::{EntryKind, LayerEntry, OPAQUE_NAME, WHITEOUT_PREFIX, Whiteout};
pub use error::LayerError;
pub use reader::LayerReader;
pub use writer::{LayerWriter, Timestamps};

#[cfg(test)]
mod tests;

/// Everything in a tar is a multiple of this.
pub(crate) const BLOCK: usize = 512;

/// Bytes of one extended header (a PAX record set, a GNU long name). Go's limit; a path is at most 4096 bytes, and
/// xattrs of one file at most 64 KiB, so anything near it is an attack.
pub(crate) const MAX_EXTENDED: u64 = 1 << 20;

/// Bytes from the end of `size` bytes of data to the next block.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
