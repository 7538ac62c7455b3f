//! Compression of layers: what a blob may be packed with, and how it is packed and unpacked.
//!
//! Packing is deterministic: the bytes depend on the input and the options, never on the number of threads.
//! Unpacking is streaming and bounded in memory; a stream that is cut, damaged, or followed by anything but
//! another stream of its kind is an error.

mod decode;
mod gzip;

use std::io::{self, Write};

pub use decode::{DecodeLimits, Decoded, Encoding, decompress, decompress_with, sniff};

/// How a layer is packed.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// gzip, which everybody reads.
    #[default]
    Gzip,
    /// zstd: smaller and faster, for readers since about 2021.
    Zstd,
}

impl Compression {
    /// Parses upstream's name of a compression (`uncompressed`, `gzip`, `zstd`).
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "uncompressed" => Some(Self::Uncompressed),
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Upstream's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a layer is to be packed.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct CompressionOptions {
    /// The method.
    pub kind: Compression,
    /// gzip: 0 to 9; zstd: 0 to 22; `None` is a good trade.
    pub level: Option<i32>,
}

impl CompressionOptions {
    /// The default level of `kind`.
    pub fn new(kind: Compression) -> Self {
        Self { kind, level: None }
    }
}

/// Packing or unpacking that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// A level that the method does not have.
    #[error("invalid {kind} compression level {level}, expected 0 to {max}")]
    Level {
        /// The method.
        kind: Compression,
        /// What was asked for.
        level: i32,
        /// The highest level.
        max: i32,
    },
    /// The bytes could not be read, written, packed or unpacked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<CompressError> for io::Error {
    fn from(error: CompressError) -> Self {
        match error {
            CompressError::Io(error) => error,
            error => Self::new(io::ErrorKind::InvalidInput, error),
        }
    }
}

/// A writer that packs what it is given. Dropped before [`Compressor::finish`] it leaves a cut stream, which
/// readers refuse.
pub trait Compressor: Write + Send + std::fmt::Debug {
    /// Writes what is left, flushes, and gives the inner writer back.
    fn finish(self: Box<Self>) -> Result<Box<dyn Write + Send>, CompressError>;
}

/// zstd's own default: 258 MB/s and .319 on shared libraries, against .358 of level 1.
const ZSTD_LEVEL: i32 = 3;
/// The highest level of zstd.
const ZSTD_MAX: i32 = 22;
/// More threads than this only cost memory.
const MAX_THREADS: usize = 64;

/// A compressor that writes to `inner`, with up to `threads` threads besides the caller's (0 counts as 1).
///
/// Blocking: call from a thread that may block.
/// Errors: [`CompressError::Level`].
pub fn compressor(
    inner: Box<dyn Write + Send>,
    options: &CompressionOptions,
    threads: usize,
) -> Result<Box<dyn Compressor>, CompressError> {
    let threads = threads.clamp(1, MAX_THREADS);
    let check = |max: i32, default: i32| match options.level {
        None => Ok(default),
        Some(level) if (0..=max).contains(&level) => Ok(level),
        Some(level) => Err(CompressError::Level { kind: options.kind, level, max }),
    };
    match options.kind {
        Compression::Uncompressed => Ok(Box::new(Plain(inner))),
        Compression::Gzip => {
            let level = check(gzip::MAX_LEVEL, gzip::DEFAULT_LEVEL)?;
            Ok(Box::new(gzip::ParallelGzip::new(inner, level, threads)?))
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(inner, check(ZSTD_MAX, ZSTD_LEVEL)?)?;
            encoder.include_checksum(true)?;
            // With at least one worker the output does not depend on how many there are; without any it differs.
            encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
            Ok(Box::new(Zstd(encoder)))
        }
    }
}

struct Plain(Box<dyn Write + Send>);

impl Write for Plain {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Compressor for Plain {
    fn finish(mut self: Box<Self>) -> Result<Box<dyn Write + Send>, CompressError> {
        self.0.flush()?;
        Ok(self.0)
    }
}

struct Zstd(zstd::Encoder<'static, Box<dyn Write + Send>>);

impl Write for Zstd {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    /// Flushing would end a block, and then the bytes would depend on when it is called: only `finish` flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Compressor for Zstd {
    fn finish(self: Box<Self>) -> Result<Box<dyn Write + Send>, CompressError> {
        let mut inner = self.0.finish()?;
        inner.flush()?;
        Ok(inner)
    }
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plain")
    }
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Zstd")
    }
}

#[cfg(test)]
mod tests;
