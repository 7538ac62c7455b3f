use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::entry::clean_path;
use super::sparse::{self, SparseMap};
use super::{BLOCK, EntryKind, LayerEntry, LayerError, MAX_EXTENDED, numeric, padding, pax};

/// Reads a layer archive entry by entry, streaming.
///
/// After [`LayerReader::next_entry`] gave a file, its bytes are read through [`Read`]; what is not read is skipped.
/// Sparse files come out as plain ones. Memory: one extended header (1 MiB) at most.
/// Errors: [`LayerError`]; after one the reader is of no more use.
#[derive(Debug)]
pub struct LayerReader<R> {
    source: Counted<R>,
    data: Data,
    /// An end mark has been read.
    ended: bool,
    /// An archive that stops between entries, without end mark, is whole.
    end_mark_optional: bool,
    /// See [`LayerReader::any_tar`].
    any_tar: bool,
}

#[derive(Debug)]
struct Counted<R> {
    inner: R,
    offset: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// What is left of the current entry.
#[derive(Debug, Default)]
struct Data {
    /// Stored bytes to come.
    stored: u64,
    /// Zeros after them.
    padding: u64,
    /// Bytes of the file already given out.
    position: u64,
    /// Bytes of the file.
    size: u64,
    /// For sparse files: the pieces to come, last first.
    pieces: Option<Vec<(u64, u64)>>,
}

/// Extended headers that precede an entry.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    mtime_ns: Option<i64>,
    xattrs: BTreeMap<String, Vec<u8>>,
    sparse: PaxSparse,
}

#[derive(Debug, Default)]
struct PaxSparse {
    major: Option<u64>,
    size: Option<u64>,
    numbers: Vec<u64>,
    is_sparse: bool,
    /// The file's name: what else is given is made up for readers without sparse files.
    name: Option<Vec<u8>>,
}

impl<R: Read> LayerReader<R> {
    /// Reads the uncompressed tar `inner`.
    pub fn new(inner: R) -> Self {
        let source = Counted { inner, offset: 0 };
        Self { source, data: Data::default(), ended: false, end_mark_optional: false, any_tar: false }
    }

    /// Accepts an archive that stops between two entries without an end mark. For bytes whose length is known to
    /// be right (a verified layer); elsewhere a cut archive would pass for a whole one.
    #[must_use]
    pub fn end_mark_optional(mut self) -> Self {
        self.end_mark_optional = true;
        self
    }

    /// Accepts what tar programs accept: no end mark, no padding of the last entry, and names that climb above the root,
    /// which they then stop at. For archives that are no layers.
    #[must_use]
    pub fn any_tar(self) -> Self {
        Self { any_tar: true, ..self.end_mark_optional() }
    }

    /// Gives back what the archive was read from, standing behind the end mark if that was reached.
    pub fn into_inner(self) -> R {
        self.source.inner
    }

    /// The next entry; `None` after the end mark (and for an input without a single byte).
    pub fn next_entry(&mut self) -> Result<Option<LayerEntry>, LayerError> {
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            self.skip_data()?;
            let at = self.source.offset;
            let Some(header) = self.read_header(pending)? else { return Ok(None) };
            let field = |range: std::ops::Range<usize>| numeric::parse(&header[range]);
            let bad = |what| LayerError::Header { offset: at, what };
            let size = field(124..136).and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or_else(|| bad("size is no number"))?;
            let flag = header[156];
            match flag {
                b'x' => {
                    let records = pax::parse(&self.read_extended(size, at)?);
                    extended.merge(records.ok_or_else(|| bad("malformed PAX records"))?, at)?;
                }
                b'L' => extended.path = Some(until_nul(&self.read_extended(size, at)?).to_vec()),
                b'K' => extended.link = Some(until_nul(&self.read_extended(size, at)?).to_vec()),
                b'g' => {
                    // Global records (git archive writes one with its commit) change nothing in a layer.
                    self.data = Data { stored: size, padding: padding(size), ..Data::default() };
                    continue;
                }
                _ => return self.entry(&header, size, extended, at).map(Some),
            }
            pending = true;
        }
    }

    /// A header block, or `None` at the end. `pending`: an extended header waits for its entry.
    fn read_header(&mut self, pending: bool) -> Result<Option<[u8; BLOCK]>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let offset = self.source.offset;
        let Some(block) = self.read_block()? else {
            self.ended = true;
            if offset == 0 || (self.end_mark_optional && !pending) {
                return Ok(None);
            }
            return Err(LayerError::Truncated { offset });
        };
        if block.iter().any(|byte| *byte != 0) {
            let stored = numeric::parse(&block[148..156]);
            let sums = check_sums(&block);
            if stored != Some(sums.0) && stored != Some(sums.1) {
                return Err(LayerError::Header { offset, what: "wrong check sum (is it a tar?)" });
            }
            return Ok(Some(block));
        }
        self.ended = true;
        if pending {
            return Err(LayerError::Truncated { offset });
        }
        // GNU tar and Go take one zero block at the very end for an end mark too.
        match self.read_block()? {
            Some(block) if block.iter().any(|byte| *byte != 0) => {
                Err(LayerError::Header { offset, what: "data behind half an end mark" })
            }
            _ => Ok(None),
        }
    }

    /// `None` if the input ends here; an end within the block is an error.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(LayerError::Truncated { offset: self.source.offset }),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    fn read_extended(&mut self, size: u64, offset: u64) -> Result<Vec<u8>, LayerError> {
        if size > MAX_EXTENDED {
            return Err(LayerError::Header { offset, what: "extended header of more than 1 MiB" });
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(size + padding(size)).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size + padding(size) {
            return Err(LayerError::Truncated { offset: self.source.offset });
        }
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        Ok(bytes)
    }

    fn skip_data(&mut self) -> Result<(), LayerError> {
        let (stored, padding) = (self.data.stored, self.data.padding);
        self.data = Data::default();
        let skipped = io::copy(&mut (&mut self.source).take(stored + padding), &mut io::sink())?;
        let needed = if self.any_tar { stored } else { stored + padding };
        if skipped >= needed { Ok(()) } else { Err(LayerError::Truncated { offset: self.source.offset }) }
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        mut extended: Extended,
        offset: u64,
    ) -> Result<LayerEntry, LayerError> {
        let real = extended.sparse.name.take().or(extended.path.take());
        let name = real.unwrap_or_else(|| header_name(header));
        let link = extended.link.take().unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let bad = |what| LayerError::entry(&name, what);
        let kind = kind_of(header[156], &name).ok_or_else(|| bad("unknown type of entry"))?;
        let path = clean_path(&name, &name, self.any_tar)?;
        let number = |range: std::ops::Range<usize>| numeric::parse(&header[range]);
        let id = |given: Option<i64>, range| {
            given
                .or_else(|| number(range))
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| bad("owner out of range"))
        };
        let mode = number(100..108).ok_or_else(|| bad("mode is no number"))?;
        let mtime_ns = match extended.mtime_ns {
            Some(ns) => ns,
            None => number(136..148).ok_or_else(|| bad("time is no number"))?.saturating_mul(1_000_000_000),
        };
        let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let device = |range| match is_device {
            true => number(range)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| bad("device number out of range")),
            false => Ok(0),
        };
        let mut entry = LayerEntry {
            path,
            kind,
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: id(extended.uid, 108..116)?,
            gid: id(extended.gid, 116..124)?,
            size: 0,
            mtime_ns,
            link: match kind {
                EntryKind::Symlink if link.is_empty() || link.contains(&0) => {
                    return Err(bad("symlink without a proper target"));
                }
                EntryKind::Symlink => PathBuf::from(OsString::from_vec(link)),
                EntryKind::HardLink => clean_path(&link, &name, self.any_tar)?,
                _ => PathBuf::new(),
            },
            device: (device(329..337)?, device(337..345)?),
            xattrs: std::mem::take(&mut extended.xattrs),
        };
        if kind == EntryKind::File {
            self.start_data(header, extended.size.unwrap_or(size), &extended.sparse, &name, offset)?;
            entry.size = self.data.size;
        }
        Ok(entry)
    }

    fn start_data(
        &mut self,
        header: &[u8; BLOCK],
        stored: u64,
        sparse: &PaxSparse,
        name: &[u8],
        offset: u64,
    ) -> Result<(), LayerError> {
        if stored > i64::MAX as u64 - BLOCK as u64 {
            return Err(LayerError::Header { offset, what: "size out of range" });
        }
        let bad = || LayerError::entry(name, "damaged map of a sparse file");
        let mut left = stored;
        let map: Option<SparseMap> = if header[156] == b'S' {
            Some(sparse::read_old_gnu(header, &mut self.source).map_err(|e| self.early(e))?.ok_or_else(bad)?)
        } else if sparse.major == Some(1) {
            let size = sparse.size.ok_or_else(bad)?;
            let read = sparse::read_pax_1_0(&mut self.source, size, stored).map_err(|e| self.early(e))?;
            let (map, taken) = read.ok_or_else(bad)?;
            left = stored - taken;
            Some(map)
        } else if sparse.is_sparse {
            Some(sparse::from_numbers(&sparse.numbers, sparse.size.ok_or_else(bad)?).ok_or_else(bad)?)
        } else {
            None
        };
        self.data = Data { stored: left, padding: padding(stored), size: stored, ..Data::default() };
        if let Some(map) = map {
            let mut map = map.check(left).ok_or_else(bad)?;
            map.pieces.retain(|(_, length)| *length > 0);
            map.pieces.reverse();
            self.data.size = map.size;
            self.data.pieces = Some(map.pieces);
        }
        Ok(())
    }

    fn early(&self, error: io::Error) -> LayerError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => LayerError::Truncated { offset: self.source.offset },
            _ => error.into(),
        }
    }

    fn read_stored(&mut self, buf: &mut [u8], most: u64) -> io::Result<usize> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buf.len());
        let read = self.source.read(&mut buf[..most])?;
        if read == 0 && most > 0 {
            return Err(LayerError::Truncated { offset: self.source.offset }.into());
        }
        self.data.stored -= read as u64;
        self.data.position += read as u64;
        Ok(read)
    }
}

/// The current file's bytes. Errors: `UnexpectedEof` if the archive ends within them.
impl<R: Read> Read for LayerReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.data.size - self.data.position;
        if left == 0 || buf.is_empty() {
            return Ok(0);
        }
        let Some(pieces) = &mut self.data.pieces else { return self.read_stored(buf, left) };
        let position = self.data.position;
        match pieces.last().copied() {
            Some((offset, length)) if offset <= position => {
                let end = offset + length;
                let read = self.read_stored(buf, end - position)?;
                if position + read as u64 == end
                    && let Some(pieces) = &mut self.data.pieces
                {
                    pieces.pop();
                }
                Ok(read)
            }
            next => {
                let hole = next.map_or(left, |(offset, _)| offset - position);
                let zeros = usize::try_from(hole).unwrap_or(usize::MAX).min(buf.len());
                buf[..zeros].fill(0);
                self.data.position += zeros as u64;
                Ok(zeros)
            }
        }
    }
}

impl Extended {
    /// Later records win; an empty value takes an earlier one back.
    fn merge(&mut self, records: Vec<(String, Vec<u8>)>, offset: u64) -> Result<(), LayerError> {
        let bad = |what| LayerError::Header { offset, what };
        for (key, value) in records {
            let number = || {
                let text = std::str::from_utf8(&value).ok().filter(|text| !text.starts_with('+'));
                text.and_then(|text| text.parse::<i64>().ok()).ok_or_else(|| bad("PAX record is no number"))
            };
            let unsigned = || u64::try_from(number()?).map_err(|_| bad("negative PAX record"));
            let gone = value.is_empty();
            match key.as_str() {
                "path" => self.path = (!gone).then(|| value.clone()),
                "linkpath" => self.link = (!gone).then(|| value.clone()),
                "size" => self.size = if gone { None } else { Some(unsigned()?) },
                "uid" => self.uid = if gone { None } else { Some(number()?) },
                "gid" => self.gid = if gone { None } else { Some(number()?) },
                "mtime" if gone => self.mtime_ns = None,
                "mtime" => {
                    self.mtime_ns =
                        Some(pax::parse_time(&value).ok_or_else(|| bad("PAX time is no number"))?);
                }
                "GNU.sparse.major" => self.sparse.major = Some(unsigned()?),
                "GNU.sparse.realsize" | "GNU.sparse.size" => self.sparse.size = Some(unsigned()?),
                "GNU.sparse.name" => self.sparse.name = Some(value),
                "GNU.sparse.offset" | "GNU.sparse.numbytes" => {
                    self.sparse.is_sparse = true;
                    self.sparse.numbers.push(unsigned()?);
                }
                "GNU.sparse.map" => {
                    self.sparse.is_sparse = true;
                    let text = std::str::from_utf8(&value).unwrap_or("-");
                    let numbers: Result<_, _> = text.split(',').map(str::parse).collect();
                    self.sparse.numbers = numbers.map_err(|_| bad("damaged map of a sparse file"))?;
                }
                key => {
                    if let Some(name) = key.strip_prefix(pax::XATTR).filter(|name| !name.is_empty()) {
                        self.xattrs.insert(name.to_owned(), value);
                    }
                }
            }
        }
        Ok(())
    }
}

fn kind_of(flag: u8, name: &[u8]) -> Option<EntryKind> {
    Some(match flag {
        0 if name.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        _ => return None,
    })
}

/// Name, with the prefix where the header has one (POSIX, not GNU, which keeps other things there).
fn header_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = if &header[257..263] == b"ustar\0" { until_nul(&header[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, name].join(&b'/') }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Sum of the bytes, unsigned and signed (old tars differ), the field itself as spaces.
fn check_sums(block: &[u8; BLOCK]) -> (i64, i64) {
    let mut sums = (0, 0);
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        sums.0 += i64::from(byte);
        sums.1 += i64::from(byte.cast_signed());
    }
    sums
}
