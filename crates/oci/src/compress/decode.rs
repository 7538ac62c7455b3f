use std::io::{self, Cursor, Read};

use super::CompressError;

/// Enough bytes to recognise everything below.
const SNIFF: usize = 6;
/// zstd windows beyond 2^27 bytes are refused, as by the zstd program without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How bytes are packed, as seen from their beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Nothing we know.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// Bounds for unpacking.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Unpacked bytes beyond this are an error.
    pub max_output: Option<u64>,
    /// Memory that a stream may demand for its window or dictionary.
    pub max_memory: u64,
}

impl Default for DecodeLimits {
    /// No bound on the output (whoever stores it has one), 128 MiB of window: what `xz -9` and `zstd -19` need.
    fn default() -> Self {
        Self { max_output: None, max_memory: 128 << 20 }
    }
}

/// Unpacked bytes, and what they were packed with.
pub struct Decoded {
    /// What was found.
    pub encoding: Encoding,
    /// The unpacked bytes.
    pub reader: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoded").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

/// What bytes that begin with `head` are packed with.
pub fn sniff(head: &[u8]) -> Encoding {
    match head {
        [0x1f, 0x8b, 0x08, ..] => Encoding::Gzip,
        // A frame, or a skippable frame (which zstd:chunked puts first).
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Encoding::Zstd,
        [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50 => Encoding::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Encoding::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Encoding::Xz,
        _ => Encoding::Plain,
    }
}

/// Unpacks whatever `inner` is packed with; bytes that are not packed pass through.
///
/// Blocking. Errors come from reading: `UnexpectedEof` for a cut stream, others for damage and trailing garbage.
pub fn decompress(inner: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, CompressError> {
    Ok(decompress_with(inner, &DecodeLimits::default())?.reader)
}

/// As [`decompress`], with bounds, and telling what was found.
pub fn decompress_with(
    mut inner: Box<dyn Read + Send>,
    limits: &DecodeLimits,
) -> Result<Decoded, CompressError> {
    let mut head = Vec::with_capacity(SNIFF);
    inner.by_ref().take(SNIFF as u64).read_to_end(&mut head)?;
    let encoding = sniff(&head);
    let all = Cursor::new(head).chain(inner);
    let reader: Box<dyn Read + Send> = match encoding {
        Encoding::Plain => Box::new(all),
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(all)),
        Encoding::Zstd => {
            let mut decoder = zstd::Decoder::new(all)?;
            decoder.window_log_max(limits.max_memory.max(1 << 10).ilog2().min(ZSTD_WINDOW_LOG))?;
            Box::new(decoder)
        }
        Encoding::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(all)),
        Encoding::Xz => {
            let kib = u32::try_from(limits.max_memory >> 10).unwrap_or(u32::MAX);
            Box::new(lzma_rust2::XzReader::new_mem_limit(all, true, kib))
        }
    };
    let reader = match limits.max_output {
        None => reader,
        Some(limit) => Box::new(Limited { inner: reader, left: limit, limit }),
    };
    Ok(Decoded { encoding, reader })
}

struct Limited {
    inner: Box<dyn Read + Send>,
    left: u64,
    limit: u64,
}

impl Read for Limited {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                let text = format!("unpacks to more than {} bytes", self.limit);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
            }
        }
        Ok(read)
    }
}
