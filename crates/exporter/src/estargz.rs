//! Layers that can be read piece by piece: gzip to everyone, with a table of contents for those who know.
//!
//! Source: the eStargz specification of containerd's stargz-snapshotter. The archive's payload is cut into gzip members at
//! the start of each file and every [`CHUNK`] bytes of it; the last entry is the table, in a member of its own, whose
//! place the footer tells: an empty gzip member of 51 bytes.
//!
//! ```text
//! member: header of the landmark | member: its byte, header of the next entry | … | member: table | footer
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use base64::Engine as _;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use rbuild_digest::{Digest, Hasher};
use rbuild_oci::format_time;
use rbuild_oci::layer::{EntryKind, LayerEntry, LayerReader, LayerWriter};
use serde::Serialize;

/// Annotation of the layer: digest of the table.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation of the layer: bytes of the archive.
pub(crate) const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// The table's entry.
const TOC: &str = "stargz.index.json";
/// Says that nothing is worth fetching ahead; some landmark there must be.
const LANDMARK: &str = ".no.prefetch.landmark";
const LANDMARK_BYTE: u8 = 0x0f;
/// Names that belong to the format: of an archive that is one already they are made anew.
const OWN: [&str; 3] = [TOC, LANDMARK, ".prefetch.landmark"];
/// Bytes of a file in one member, as the reference implementation has it.
const CHUNK: u64 = 4 << 20;
/// Bytes moved at a time.
const BUFFER: usize = 128 << 10;
/// gzip's own default.
const LEVEL: u32 = 6;
/// Entries of a table: it is in memory as a whole, as it is for its readers.
const MAX_ENTRIES: usize = 2_000_000;
const NANOS: i64 = 1_000_000_000;

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// Digest of the archive, the table included.
    pub(crate) diff_id: Digest,
    pub(crate) toc_digest: Digest,
    pub(crate) uncompressed_size: u64,
}

#[derive(Debug, Serialize)]
struct Toc {
    version: u32,
    entries: Vec<Entry>,
}

#[derive(Debug, Default, Serialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(rename = "linkName", skip_serializing_if = "String::is_empty")]
    link: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(rename = "devMajor", skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(rename = "devMinor", skip_serializing_if = "is_zero")]
    minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(rename = "chunkOffset", skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(rename = "chunkSize", skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(rename = "chunkDigest", skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Entry {
    fn of(entry: &LayerEntry) -> Self {
        let kind = match entry.kind {
            EntryKind::File => "reg",
            EntryKind::Directory => "dir",
            EntryKind::Symlink => "symlink",
            EntryKind::HardLink => "hardlink",
            EntryKind::CharDevice => "char",
            EntryKind::BlockDevice => "block",
            EntryKind::Fifo => "fifo",
        };
        let mut name = entry.path.to_string_lossy().into_owned();
        if entry.kind == EntryKind::Directory {
            name.push('/');
        }
        let encoded = |value: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(value);
        Self {
            name,
            kind,
            size: entry.size,
            time: format_time(entry.mtime_ns.div_euclid(NANOS), 0),
            link: entry.link.to_string_lossy().into_owned(),
            mode: entry.mode.into(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            major: entry.device.0.into(),
            minor: entry.device.1.into(),
            xattrs: entry.xattrs.iter().map(|(key, value)| (key.clone(), encoded(value))).collect(),
            ..Self::default()
        }
    }
}

/// Gzip members one after the other; counts what comes out, hashes and counts what goes in.
struct Members<W: Write> {
    gzip: Option<GzEncoder<Counting<W>>>,
    level: u32,
    plain: Hasher,
    plain_bytes: u64,
}

struct Counting<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Members<W> {
    fn new(inner: W, level: u32) -> Self {
        let gzip = GzEncoder::new(Counting { inner, bytes: 0 }, flate2::Compression::new(level));
        Self { gzip: Some(gzip), level, plain: Hasher::new(), plain_bytes: 0 }
    }

    /// Ends the member; gives the place of the next one.
    fn cut(&mut self) -> io::Result<u64> {
        let ended = self.gzip.take().ok_or(io::ErrorKind::BrokenPipe)?.finish()?;
        let place = ended.bytes;
        self.gzip = Some(GzEncoder::new(ended, flate2::Compression::new(self.level)));
        Ok(place)
    }
}

/// The members with the archive's writer in front of them.
struct Shared<W: Write>(Arc<Mutex<Members<W>>>);

impl<W: Write> Write for Shared<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut members = self.0.lock();
        let count = members.gzip.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(data)?;
        members.plain.update(&data[..count]);
        members.plain_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies a plain archive into the form. `latest_ns`: times later than that become that.
pub(crate) fn convert<W: Write>(
    archive: impl Read,
    target: W,
    level: Option<i32>,
    latest_ns: Option<i64>,
) -> io::Result<Written> {
    let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(LEVEL).min(9);
    let members = Arc::new(Mutex::new(Members::new(target, level)));
    let mut writer = LayerWriter::new(Shared(members.clone()));
    let mut toc = Toc { version: 1, entries: Vec::new() };
    let mut landmark = LayerEntry::new(LANDMARK, EntryKind::File);
    (landmark.size, landmark.mode) = (1, 0o644);
    append(&mut writer, &members, &mut toc, &landmark, &[LANDMARK_BYTE][..])?;
    let mut last = landmark;
    let mut reader = LayerReader::new(archive);
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        if OWN.iter().any(|own| entry.path == std::path::Path::new(own)) {
            continue;
        }
        let mtime_ns = latest_ns.map_or(entry.mtime_ns, |latest| entry.mtime_ns.min(latest));
        let entry = LayerEntry { mtime_ns, ..entry };
        append(&mut writer, &members, &mut toc, &entry, &mut reader)?;
        last = entry;
    }
    drop(writer);
    finish(members, &toc, &last)
}

fn append<W: Write>(
    writer: &mut LayerWriter<Shared<W>>,
    members: &Mutex<Members<W>>,
    toc: &mut Toc,
    entry: &LayerEntry,
    mut data: impl Read,
) -> io::Result<()> {
    if toc.entries.len() >= MAX_ENTRIES {
        return Err(io::Error::other(format!("more than {MAX_ENTRIES} entries in a table of contents")));
    }
    writer.start(entry)?;
    let first = toc.entries.len();
    toc.entries.push(Entry::of(entry));
    if entry.kind != EntryKind::File || entry.size == 0 {
        return Ok(());
    }
    let (mut whole, mut buffer, mut done) = (Hasher::new(), vec![0; BUFFER], 0);
    while done < entry.size {
        let size = CHUNK.min(entry.size - done);
        let offset = members.lock().cut()?;
        let digest = copy(&mut data, writer, size, &mut whole, &mut buffer)?.to_string();
        if done > 0 {
            toc.entries.push(Entry {
                name: toc.entries[first].name.clone(),
                kind: "chunk",
                ..Entry::default()
            });
        }
        let chunk = toc.entries.last_mut().ok_or(io::ErrorKind::InvalidData)?;
        (chunk.offset, chunk.chunk_offset, chunk.chunk_digest) = (offset, done, digest);
        // Of a file in one piece the size of the piece goes without saying.
        chunk.chunk_size = if entry.size > CHUNK { size } else { 0 };
        done += size;
    }
    toc.entries[first].digest = whole.finish().to_string();
    Ok(())
}

/// Copies one chunk; gives its digest.
fn copy(
    data: &mut impl Read,
    writer: &mut impl Write,
    size: u64,
    whole: &mut Hasher,
    buffer: &mut [u8],
) -> io::Result<Digest> {
    let (mut chunk, mut left) = (Hasher::new(), size);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = data.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        writer.write_all(&buffer[..count])?;
        chunk.update(&buffer[..count]);
        whole.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(chunk.finish())
}

/// Writes the table and the footer.
fn finish<W: Write>(members: Arc<Mutex<Members<W>>>, toc: &Toc, last: &LayerEntry) -> io::Result<Written> {
    // The last file is padded before the table's member begins.
    let size = if last.kind == EntryKind::File { last.size } else { 0 };
    let padding = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
    Shared(members.clone()).write_all(&[0; 512][..padding])?;
    let place = members.lock().cut()?;
    let json = rbuild_oci::json::to_vec(toc).map_err(io::Error::other)?;
    let mut entry = LayerEntry::new(TOC, EntryKind::File);
    (entry.size, entry.mode) = (json.len() as u64, 0o444);
    let mut writer = LayerWriter::new(Shared(members.clone()));
    writer.append(&entry, &json[..])?;
    drop(writer.finish()?);
    let members = Arc::into_inner(members).ok_or(io::ErrorKind::BrokenPipe)?.into_inner();
    let mut target = members.gzip.ok_or(io::ErrorKind::BrokenPipe)?.finish()?.inner;
    target.write_all(&footer(place))?;
    target.flush()?;
    Ok(Written {
        diff_id: members.plain.finish(),
        toc_digest: Digest::of(&json),
        uncompressed_size: members.plain_bytes,
    })
}

/// An empty gzip member whose extra field tells where the table is.
fn footer(place: u64) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    out.extend(format!("{place:016x}STARGZ").bytes());
    // The final block, stored, of no bytes; checksum and size of nothing.
    out.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

#[cfg(test)]
mod tests {
    use flate2::read::{GzDecoder, MultiGzDecoder};

    use super::*;

    fn archive(large: &[u8]) -> Vec<u8> {
        let mut writer = LayerWriter::new(Vec::new());
        let mut dir = LayerEntry::new("dir", EntryKind::Directory);
        (dir.mode, dir.mtime_ns) = (0o755, 7 * NANOS);
        writer.start(&dir).unwrap();
        for (name, data) in [("dir/small", &b"hello"[..]), ("empty", b""), ("large", large)] {
            let mut entry = LayerEntry::new(name, EntryKind::File);
            entry.size = data.len() as u64;
            entry.xattrs.insert("user.x".into(), vec![1, 2]);
            writer.append(&entry, data).unwrap();
        }
        let mut link = LayerEntry::new("link", EntryKind::Symlink);
        link.link = "dir/small".into();
        writer.start(&link).unwrap();
        writer.finish().unwrap()
    }

    fn plain(blob: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        MultiGzDecoder::new(blob).read_to_end(&mut plain).unwrap();
        plain
    }

    fn large() -> Vec<u8> {
        (0..(CHUNK as usize * 2 + 1000)).map(|at| (at / 251) as u8).collect()
    }

    fn toc_of(blob: &[u8]) -> (serde_json::Value, Vec<u8>) {
        let footer = &blob[blob.len() - 51..];
        assert!(footer.starts_with(&[0x1f, 0x8b]) && &footer[32..38] == b"STARGZ");
        let place = std::str::from_utf8(&footer[16..32]).unwrap();
        let place = usize::from_str_radix(place, 16).unwrap();
        let mut tar = Vec::new();
        GzDecoder::new(&blob[place..]).read_to_end(&mut tar).unwrap();
        let mut reader = LayerReader::new(&tar[..]);
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!(entry.path.to_str(), Some(TOC));
        let mut json = Vec::new();
        reader.read_to_end(&mut json).unwrap();
        (serde_json::from_slice(&json).unwrap(), json)
    }

    #[test]
    fn to_others_it_is_gzip_of_the_same_archive() {
        let (large, mut blob) = (large(), Vec::new());
        let written = convert(&archive(&large)[..], &mut blob, None, None).unwrap();
        let plain = plain(&blob);
        assert_eq!(written.diff_id, Digest::of(&plain));
        assert_eq!(written.uncompressed_size, plain.len() as u64);
        let mut reader = LayerReader::new(&plain[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(entry.path.to_string_lossy().into_owned());
            if entry.path.to_str() == Some("large") {
                let mut data = Vec::new();
                reader.read_to_end(&mut data).unwrap();
                assert!(data == large);
            }
        }
        assert_eq!(names, [LANDMARK, "dir", "dir/small", "empty", "large", "link", TOC]);
    }

    #[test]
    fn every_chunk_can_be_read_on_its_own() {
        let (large, mut blob) = (large(), Vec::new());
        let written = convert(&archive(&large)[..], &mut blob, Some(1), None).unwrap();
        let (toc, json) = toc_of(&blob);
        assert_eq!(written.toc_digest, Digest::of(&json));
        let chunks: Vec<_> =
            toc["entries"].as_array().unwrap().iter().filter(|entry| entry["name"] == "large").collect();
        assert_eq!(
            chunks.iter().map(|c| c["type"].as_str().unwrap()).collect::<Vec<_>>(),
            ["reg", "chunk", "chunk"]
        );
        assert_eq!(chunks[0]["digest"], Digest::of(&large).to_string());
        for chunk in chunks {
            let (at, size) =
                (chunk["chunkOffset"].as_u64().unwrap_or(0), chunk["chunkSize"].as_u64().unwrap());
            let mut data = vec![0; usize::try_from(size).unwrap()];
            let from = usize::try_from(chunk["offset"].as_u64().unwrap()).unwrap();
            GzDecoder::new(&blob[from..]).read_exact(&mut data).unwrap();
            assert!(data == large[at as usize..][..data.len()]);
            assert_eq!(chunk["chunkDigest"], Digest::of(&data).to_string());
        }
        let dir = &toc["entries"][1];
        assert_eq!((&dir["name"], &dir["modtime"]), (&"dir/".into(), &"1970-01-01T00:00:07Z".into()));
        assert_eq!(toc["entries"][2]["xattrs"]["user.x"], "AQI=");
    }

    #[test]
    fn the_same_again_gives_the_same_bytes() {
        let (mut once, mut again) = (Vec::new(), Vec::new());
        convert(&archive(b"x")[..], &mut once, None, Some(3 * NANOS)).unwrap();
        convert(&plain(&once)[..], &mut again, None, Some(3 * NANOS)).unwrap();
        assert!(once == again);
        assert_eq!(toc_of(&once).0["entries"][1]["modtime"], "1970-01-01T00:00:03Z");
    }

    #[test]
    fn an_early_end_is_an_error() {
        assert!(convert(&archive(b"x")[..1100], io::sink(), None, None).is_err());
    }
}
