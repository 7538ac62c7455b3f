use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::entry::{EntryKind, LayerEntry, OPAQUE_NAME, WHITEOUT_PREFIX};
use super::numeric::{fits_octal, write_octal};
use super::{BLOCK, MAX_EXTENDED, padding, pax};

const NAME: usize = 100;
const PREFIX: usize = 155;
const ID_WIDTH: usize = 8;
const SIZE_WIDTH: usize = 12;

/// What becomes of the fraction of modification times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// Cut off, as upstream's layers have it.
    #[default]
    Seconds,
    /// Kept in a PAX record.
    Nanoseconds,
}

/// Writes a layer archive, header by header as Go's archive/tar does for the headers upstream makes: plain ustar
/// where everything fits, else PAX records (sorted by key) before a ustar-like header.
///
/// The bytes depend on the entries alone. A dropped writer leaves an archive without end mark, which readers
/// refuse: call [`LayerWriter::finish`].
#[derive(Debug)]
pub struct LayerWriter<W> {
    inner: W,
    timestamps: Timestamps,
    /// Bytes of the current entry's data that are still to come.
    remaining: u64,
    /// Zeros after them.
    padding: u64,
}

impl<W: Write> LayerWriter<W> {
    /// Writes to `inner`, whole seconds only.
    pub fn new(inner: W) -> Self {
        Self::with_timestamps(inner, Timestamps::Seconds)
    }

    /// Writes to `inner`.
    pub fn with_timestamps(inner: W, timestamps: Timestamps) -> Self {
        Self { inner, timestamps, remaining: 0, padding: 0 }
    }

    /// Writes the header of `entry`. If it is a file, exactly `entry.size` bytes must follow through [`Write`].
    ///
    /// Errors: `InvalidInput` if the last entry's data are incomplete, or a name or the xattrs cannot be written.
    pub fn start(&mut self, entry: &LayerEntry) -> io::Result<()> {
        self.end_entry()?;
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        let mut name = entry.path.as_os_str().as_bytes().to_vec();
        if name.is_empty() {
            name = b"./".to_vec();
        } else if entry.kind == EntryKind::Directory {
            name.push(b'/');
        }
        let mtime_ns = match self.timestamps {
            Timestamps::Seconds => entry.mtime_ns.div_euclid(1_000_000_000).saturating_mul(1_000_000_000),
            Timestamps::Nanoseconds => entry.mtime_ns,
        };
        let header = Header { name: &name, link: entry.link.as_os_str().as_bytes(), size, mtime_ns, entry };
        header.write(&mut self.inner)?;
        self.remaining = size;
        self.padding = padding(size);
        Ok(())
    }

    /// Writes an entry with its data, read from `data` to the declared size.
    ///
    /// Errors: `UnexpectedEof` if `data` has fewer bytes than `entry.size`; further bytes are not looked at.
    pub fn append(&mut self, entry: &LayerEntry, data: impl Read) -> io::Result<()> {
        self.start(entry)?;
        let wanted = self.remaining;
        let copied = io::copy(&mut data.take(wanted), self)?;
        if copied == wanted {
            return Ok(());
        }
        let text = format!("`{}` has {copied} bytes, {wanted} were announced", entry.path.display());
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    }

    /// Hides `path` of the layers below. Such entries have mode 0.
    pub fn whiteout(&mut self, path: &Path, mtime_ns: i64) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return Err(invalid("the root cannot be removed"));
        };
        let mut hidden = std::ffi::OsString::from(WHITEOUT_PREFIX);
        hidden.push(name);
        self.mark(path.with_file_name(hidden), mtime_ns)
    }

    /// Hides all that the layers below have in directory `path`.
    pub fn opaque(&mut self, path: &Path, mtime_ns: i64) -> io::Result<()> {
        self.mark(path.join(OPAQUE_NAME), mtime_ns)
    }

    fn mark(&mut self, path: std::path::PathBuf, mtime_ns: i64) -> io::Result<()> {
        self.start(&LayerEntry { mode: 0, mtime_ns, ..LayerEntry::new(path, EntryKind::File) })
    }

    /// Writes the end mark, flushes and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_entry()?;
        self.inner.write_all(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn end_entry(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(invalid("the last entry's data are incomplete"));
        }
        let zeros = std::mem::take(&mut self.padding);
        self.inner.write_all(&[0; BLOCK][..usize::try_from(zeros).unwrap_or(0)])
    }
}

/// The current entry's data.
impl<W: Write> Write for LayerWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 && !buf.is_empty() {
            return Err(invalid("more data than the entry's size"));
        }
        let written = self.inner.write(&buf[..most])?;
        self.remaining -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Header<'a> {
    name: &'a [u8],
    link: &'a [u8],
    size: u64,
    mtime_ns: i64,
    entry: &'a LayerEntry,
}

impl Header<'_> {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if self.name.contains(&0) || self.link.contains(&0) {
            return Err(invalid("a name has a NUL byte"));
        }
        let (records, needs_pax) = self.records();
        if !needs_pax {
            let (prefix, name) = split_name(self.name).unwrap_or((b"", self.name));
            return out.write_all(&self.block(prefix, name, self.link));
        }
        let data = pax::format(&records);
        if data.len() as u64 > MAX_EXTENDED {
            return Err(invalid("names and xattrs of an entry take more than 1 MiB"));
        }
        out.write_all(&self.extended_block(data.len()))?;
        out.write_all(&data)?;
        let zeros = usize::try_from(padding(data.len() as u64)).unwrap_or(0);
        out.write_all(&[0; BLOCK][..zeros])?;
        out.write_all(&self.block(b"", &ascii(self.name), &ascii(self.link)))
    }

    /// The PAX records that say what ustar cannot, and whether there is any need for them. A name that ustar can
    /// split over two fields does not make the need, but goes along if there is one.
    fn records(&self) -> (BTreeMap<String, Vec<u8>>, bool) {
        let mut records = BTreeMap::new();
        let mut need = false;
        let plain = |text: &[u8]| text.is_ascii() && text.len() <= NAME;
        if !plain(self.name) {
            records.insert("path".to_owned(), self.name.to_vec());
            need |= split_name(self.name).is_none();
        }
        if !plain(self.link) {
            records.insert("linkpath".to_owned(), self.link.to_vec());
            need = true;
        }
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        for (key, value, width) in [
            ("uid", i64::from(self.entry.uid), ID_WIDTH),
            ("gid", i64::from(self.entry.gid), ID_WIDTH),
            ("size", size, SIZE_WIDTH),
        ] {
            if !fits_octal(width, value) {
                records.insert(key.to_owned(), value.to_string().into_bytes());
                need = true;
            }
        }
        let seconds = self.mtime_ns.div_euclid(1_000_000_000);
        if self.mtime_ns % 1_000_000_000 != 0 || !fits_octal(SIZE_WIDTH, seconds) {
            records.insert("mtime".to_owned(), pax::format_time(self.mtime_ns).into_bytes());
            need = true;
        }
        for (key, value) in &self.entry.xattrs {
            records.insert(format!("{}{key}", pax::XATTR), value.clone());
            need = true;
        }
        (records, need)
    }

    fn block(&self, prefix: &[u8], name: &[u8], link: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        write_text(&mut block[..NAME], name);
        write_octal(&mut block[100..108], i64::from(self.entry.mode & 0o7777));
        write_octal(&mut block[108..116], i64::from(self.entry.uid));
        write_octal(&mut block[116..124], i64::from(self.entry.gid));
        write_octal(&mut block[124..136], i64::try_from(self.size).unwrap_or(i64::MAX));
        write_octal(&mut block[136..148], self.mtime_ns.div_euclid(1_000_000_000));
        block[156] = type_flag(self.entry.kind);
        write_text(&mut block[157..257], link);
        write_octal(&mut block[329..337], i64::from(self.entry.device.0));
        write_octal(&mut block[337..345], i64::from(self.entry.device.1));
        write_text(&mut block[345..345 + PREFIX], prefix);
        seal(&mut block);
        block
    }

    /// The header of the record set: `dir/PaxHeaders.0/file`.
    fn extended_block(&self, size: usize) -> [u8; BLOCK] {
        let split = self.name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (dir, file) = self.name.split_at(split);
        let parts: Vec<&[u8]> = dir
            .split(|byte| *byte == b'/')
            .chain([b"PaxHeaders.0".as_slice(), file])
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        let mut name = ascii(&parts.join(&b'/'));
        name.truncate(NAME);
        while name.last() == Some(&b'/') {
            name.pop();
        }
        let mut block = [0; BLOCK];
        write_text(&mut block[..NAME], &name);
        for (start, width, value) in
            [(100, 8, 0), (108, 8, 0), (116, 8, 0), (124, 12, size), (136, 12, 0usize)]
        {
            write_octal(&mut block[start..start + width], i64::try_from(value).unwrap_or(i64::MAX));
        }
        block[156] = b'x';
        seal(&mut block);
        block
    }
}

/// Magic, version, check sum.
fn seal(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: i64 = block.iter().map(|byte| i64::from(*byte)).sum();
    write_octal(&mut block[148..155], sum);
}

fn type_flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// Fills a text field. A cut text must not end in a slash: some readers take such entries for directories.
fn write_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    if text.len() > field.len() && field[length - 1] == b'/' {
        let mut end = length - 1;
        while end > 0 && field[end - 1] == b'/' {
            end -= 1;
        }
        field[end] = 0;
    }
}

/// A long name over ustar's two fields: `(prefix, name)`.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= NAME || !name.is_ascii() {
        return None;
    }
    let mut length = name.len();
    if length > PREFIX + 1 {
        length = PREFIX + 1;
    } else if name[length - 1] == b'/' {
        length -= 1;
    }
    let slash = name[..length].iter().rposition(|byte| *byte == b'/')?;
    let rest = &name[slash + 1..];
    (slash > 0 && slash <= PREFIX && !rest.is_empty() && rest.len() <= NAME).then(|| (&name[..slash], rest))
}

fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| byte.is_ascii() && *byte != 0).collect()
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
