use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn write(entries: &[(LayerEntry, &[u8])], timestamps: Timestamps) -> Vec<u8> {
    let mut writer = LayerWriter::with_timestamps(Vec::new(), timestamps);
    for (entry, data) in entries {
        writer.append(entry, *data).unwrap();
    }
    writer.finish().unwrap()
}

type Entries = Vec<(LayerEntry, Vec<u8>)>;

fn read(archive: &[u8]) -> Result<Entries, LayerError> {
    let mut reader = LayerReader::new(archive);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data)?;
        entries.push((entry, data));
    }
    Ok(entries)
}

fn file(path: &str, data: &[u8]) -> LayerEntry {
    LayerEntry { size: data.len() as u64, ..LayerEntry::new(path, EntryKind::File) }
}

fn link(path: &str, kind: EntryKind, target: &str) -> LayerEntry {
    LayerEntry { link: target.into(), ..LayerEntry::new(path, kind) }
}

/// A header block made by hand: name, type flag, size, and changes.
fn block(name: &[u8], flag: u8, size: &[u8], change: impl FnOnce(&mut [u8; BLOCK])) -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = flag;
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block.to_vec()
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut all = parts.concat();
    all.extend([0; 2 * BLOCK]);
    all
}

fn pax_header(records: &str) -> Vec<u8> {
    let mut data = records.as_bytes().to_vec();
    let mut out = block(b"pax", b'x', format!("{:o}", data.len()).as_bytes(), |_| {});
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    out.extend(data);
    out
}

fn everything() -> Entries {
    let long = "d".repeat(60) + "/" + &"f".repeat(60);
    let unsplittable = "x".repeat(140);
    let mut capable = file("bin/ping", b"elf");
    capable.mode = 0o4755;
    capable.xattrs.insert("security.capability".into(), vec![1, 0, 0, 2, 0, b'\n', 0xff]);
    let device = LayerEntry { device: (5, 1), ..LayerEntry::new("dev/console", EntryKind::CharDevice) };
    let mut far = file("far", b"");
    (far.uid, far.gid, far.mtime_ns) = (4_000_000_000, 3_000_000, -1_000_000_000);
    vec![
        (LayerEntry::new("bin", EntryKind::Directory), vec![]),
        (capable, b"elf".to_vec()),
        (link("sh", EntryKind::Symlink, "/../bin/../x"), vec![]),
        (link("ping2", EntryKind::HardLink, "bin/ping"), vec![]),
        (device, vec![]),
        (LayerEntry::new("disk", EntryKind::BlockDevice), vec![]),
        (LayerEntry::new("pipe", EntryKind::Fifo), vec![]),
        (file(&long, &[7; 700]), vec![7; 700]),
        (file(&unsplittable, b"u"), b"u".to_vec()),
        (link("long", EntryKind::Symlink, &long), vec![]),
        (file("é", b"x"), b"x".to_vec()),
        (far, vec![]),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let entries = everything();
    let borrowed: Vec<_> = entries.iter().map(|(entry, data)| (entry.clone(), data.as_slice())).collect();
    assert_eq!(read(&write(&borrowed, Timestamps::Seconds)).unwrap(), entries);
}

#[test]
fn gnu_tar_reads_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let entries = everything();
    let borrowed: Vec<_> = entries.iter().map(|(entry, data)| (entry.clone(), data.as_slice())).collect();
    std::fs::write(&path, write(&borrowed, Timestamps::Seconds)).unwrap();
    let output = Command::new("tar").arg("--quoting-style=literal").arg("-tf").arg(&path).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let listed: Vec<PathBuf> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| PathBuf::from(line.trim_end_matches('/')))
        .collect();
    assert_eq!(listed, entries.iter().map(|(entry, _)| entry.path.clone()).collect::<Vec<_>>());
}

/// The same entries written by Go 1.27's archive/tar with `Format: FormatPAX` and whole seconds have this digest.
#[test]
fn bytes_equal_those_of_go() {
    let entries = everything();
    let borrowed: Vec<_> = entries.iter().map(|(entry, data)| (entry.clone(), data.as_slice())).collect();
    let digest = rbuild_digest::Digest::of(write(&borrowed, Timestamps::Seconds));
    assert_eq!(digest.to_string(), "sha256:2c00225ad3ea133d71a68dcc51387b6dbed5ca98f2ae6e34b5681bb687b6bcaf");
}

#[test]
fn plain_entries_are_one_ustar_block() {
    let mut entry = file("etc/hostname", b"hi\n");
    entry.mtime_ns = 1_700_000_000_999_999_999;
    let bytes = write(&[(entry, b"hi\n")], Timestamps::Seconds);
    assert_eq!(bytes.len(), 4 * BLOCK);
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&bytes[range]).into_owned();
    assert_eq!(text(100..108), "0000644\0");
    assert_eq!(text(124..136), "00000000003\0");
    assert_eq!(text(136..148), "14524770400\0", "the fraction is cut, not rounded");
    assert_eq!(text(156..157), "0");
    assert_eq!(text(257..265), "ustar\x0000");
    assert_eq!(text(329..345), "0000000\x000000000\0");
    assert_eq!(&bytes[154..156], b"\0 ");
}

#[test]
fn long_names_are_split_or_go_into_pax() {
    let split = write(&[(file(&("d".repeat(60) + "/" + &"f".repeat(60)), b""), b"")], Timestamps::Seconds);
    assert_eq!(split.len(), 3 * BLOCK);
    assert_eq!(&split[345..405], "d".repeat(60).as_bytes());
    let pax = write(&[(file(&("a/".to_owned() + &"x".repeat(140)), b""), b"")], Timestamps::Seconds);
    assert_eq!(pax.len(), 5 * BLOCK);
    assert!(pax.starts_with(b"a/PaxHeaders.0/xxx"));
    assert!(pax[BLOCK..].starts_with(b"152 path=a/xxx"));
    assert!(pax[2 * BLOCK..].starts_with(b"a/xxx"));
}

#[test]
fn records_are_sorted_and_count_themselves() {
    let mut entry = file("f", b"");
    entry.mtime_ns = 1_500_000_000;
    entry.xattrs = BTreeMap::from([("user.b".into(), b"2".to_vec()), ("user.a".into(), b"1".to_vec())]);
    let bytes = write(&[(entry.clone(), b"")], Timestamps::Nanoseconds);
    let records = "25 SCHILY.xattr.user.a=1\n25 SCHILY.xattr.user.b=2\n13 mtime=1.5\n";
    assert!(bytes[BLOCK..].starts_with(records.as_bytes()));
    assert_eq!(read(&bytes).unwrap()[0].0, entry);
    // A record whose length would be 100 with two digits has three of them, and so 101 bytes.
    let records = BTreeMap::from([("k".to_owned(), vec![b'v'; 93])]);
    assert!(pax::format(&records).starts_with(b"99 k=v"));
    let records = BTreeMap::from([("k".to_owned(), vec![b'v'; 94])]);
    assert!(pax::format(&records).starts_with(b"101 k=v"));
}

#[test]
fn whiteouts_have_mode_zero_and_are_recognised() {
    let mut writer = LayerWriter::new(Vec::new());
    writer.whiteout(Path::new("a/b"), 0).unwrap();
    writer.opaque(Path::new("c"), 0).unwrap();
    assert!(writer.whiteout(Path::new(""), 0).is_err());
    let entries = read(&writer.finish().unwrap()).unwrap();
    assert_eq!(entries[0].0.mode, 0);
    let found: Vec<_> = entries.iter().map(|(entry, _)| entry.whiteout().unwrap().unwrap()).collect();
    assert_eq!(found, [Whiteout::Remove("a/b".into()), Whiteout::Opaque("c".into())]);
    for (name, expected) in [
        (".wh..wh.plnk", Some(Whiteout::Metadata)),
        ("a/.wh..x", Some(Whiteout::Remove("a/.x".into()))),
        ("a/x.wh.y", None),
    ] {
        assert_eq!(file(name, b"").whiteout().unwrap(), expected, "{name}");
    }
    for bad in ["a/.wh.", ".wh..", "x/.wh..."] {
        assert!(file(bad, b"").whiteout().is_err(), "{bad}");
    }
}

#[test]
fn data_must_be_as_long_as_announced() {
    let mut writer = LayerWriter::new(Vec::new());
    assert!(writer.append(&file("f", b"abc"), &b"ab"[..]).is_err());
    assert!(writer.finish().is_err());
    let mut writer = LayerWriter::new(Vec::new());
    writer.start(&file("f", b"a")).unwrap();
    assert!(io::Write::write_all(&mut writer, b"ab").is_err());
}

#[test]
fn archives_cut_anywhere_are_errors() {
    let entries = everything();
    let borrowed: Vec<_> = entries.iter().map(|(entry, data)| (entry.clone(), data.as_slice())).collect();
    let bytes = write(&borrowed, Timestamps::Seconds);
    // The second zero block may be missing, as for GNU tar.
    for cut in (1..bytes.len() - BLOCK).step_by(97).chain([BLOCK, 2 * BLOCK, bytes.len() - 2 * BLOCK]) {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(read(b"").unwrap().is_empty());
    let mut lenient = LayerReader::new(&bytes[..bytes.len() - 2 * BLOCK]).end_mark_optional();
    while lenient.next_entry().unwrap().is_some() {}
}

#[test]
fn archives_that_are_no_layers_may_lack_their_last_zeros_and_climb_no_higher_than_the_root() {
    let mut bytes = write(&[(file("a/b", b"abc"), &b"abc"[..])], Timestamps::Seconds);
    bytes.truncate(BLOCK + 3);
    assert!(read(&bytes).is_err());
    let mut reader = LayerReader::new(&*bytes).any_tar();
    assert_eq!(reader.next_entry().unwrap().unwrap().size, 3);
    assert!(reader.next_entry().unwrap().is_none());
    let mut reader = LayerReader::new(&bytes[..BLOCK + 2]).any_tar();
    reader.next_entry().unwrap().unwrap();
    assert!(reader.next_entry().is_err(), "a byte of the file is missing");
    assert_eq!(entry::clean_path(b"../a/../../b", b"", true).unwrap(), Path::new("b"));
    assert!(entry::clean_path(b"../b", b"", false).is_err());
}

#[test]
fn paths_are_cleaned_and_never_climb() {
    for (name, path) in
        [("./", ""), ("/", ""), ("/etc//x/", "etc/x"), ("./a/./b", "a/b"), ("a/../b", "b"), ("..a", "..a")]
    {
        let bytes = archive(&[block(name.as_bytes(), b'5', b"0", |_| {})]);
        assert_eq!(read(&bytes).unwrap()[0].0.path, Path::new(path), "{name}");
    }
    for name in ["..", "../x", "/..", "a/../../b"] {
        let bytes = archive(&[block(name.as_bytes(), b'5', b"0", |_| {})]);
        assert!(matches!(read(&bytes), Err(LayerError::Escape { .. })), "{name}");
        let target = |block: &mut [u8; BLOCK]| block[157..157 + name.len()].copy_from_slice(name.as_bytes());
        let bytes = archive(&[block(b"x", b'1', b"0", target)]);
        assert!(matches!(read(&bytes), Err(LayerError::Escape { .. })), "{name} as a hard link");
    }
    let bytes = archive(&[pax_header("12 path=a\0b\n"), block(b"x", b'0', b"0", |_| {})]);
    assert!(read(&bytes).is_err(), "NUL");
}

#[test]
fn hostile_headers_are_refused() {
    let plain = |_: &mut [u8; BLOCK]| {};
    let huge_pax = block(b"p", b'x', b"77777777777", plain);
    let huge_long = block(b"p", b'L', b"10000000", plain);
    let negative = block(b"x", b'0', &[0xff; 12], plain);
    let mut huge = [0xff; 12];
    huge[0] = 0x80;
    let too_big = block(b"x", b'0', &huge, plain);
    let letters = block(b"x", b'0', b"12x", plain);
    let unknown = block(b"x", b'Z', b"0", plain);
    let empty_link = block(b"x", b'2', b"0", plain);
    let uid = block(b"x", b'0', b"0", |block| {
        block[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0]);
    });
    let mut wrong_sum = block(b"x", b'0', b"0", plain);
    wrong_sum[0] = b'y';
    for (name, bytes) in [
        ("huge pax", huge_pax),
        ("huge long name", huge_long),
        ("negative", negative),
        ("too big", too_big),
        ("letters", letters),
        ("unknown", unknown),
        ("empty link", empty_link),
        ("uid", uid),
        ("sum", wrong_sum),
    ] {
        assert!(read(&archive(&[bytes])).is_err(), "{name}");
    }
    for records in [
        "5 a=b\n",
        "0 a=b\n",
        "6 ab\n",
        "6 =ab\n",
        "99999999999999999999 a=b\n",
        "x",
        "13 size=-001\n",
        "10 uid=x1\n",
    ] {
        let bytes = archive(&[pax_header(records), block(b"x", b'0', b"0", |_| {})]);
        assert!(read(&bytes).is_err(), "{records:?}");
    }
    let dangling = archive(&[pax_header("8 path=x\n")]);
    assert!(read(&dangling).is_err(), "extended header without an entry");
    let half_end = [vec![0; BLOCK], block(b"x", b'0', b"0", |_| {})];
    assert!(read(&archive(&half_end)).is_err(), "half an end mark");
}

#[test]
fn later_records_win_and_empty_ones_take_back() {
    let pax = pax_header("11 path=aa\n11 path=bb\n11 uid=777\n7 gid=\n");
    let entries = read(&archive(&[pax, block(b"x", b'0', b"0", |_| {})])).unwrap();
    assert_eq!((entries[0].0.path.to_str(), entries[0].0.uid, entries[0].0.gid), (Some("bb"), 777, 0));
}

#[test]
fn old_dialects_are_understood() {
    let v7_dir = block(b"old/", 0, b"0", |_| {});
    let mut long = block(b"././@LongLink", b'L', b"12", |_| {});
    let mut name = b"long-name\0".to_vec();
    name.resize(BLOCK, 0);
    long.extend(name);
    let base256 = block(b"x", b'0', &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], |_| {});
    let mut data = b"hi".to_vec();
    data.resize(BLOCK, 0);
    let global = block(b"pax_global_header", b'g', b"1000", |_| {});
    let bytes = archive(&[v7_dir, global, vec![b'?'; BLOCK], long, base256, data]);
    let entries = read(&bytes).unwrap();
    assert_eq!(entries[0].0.kind, EntryKind::Directory);
    assert_eq!((entries[1].0.path.to_str(), entries[1].1.as_slice()), (Some("long-name"), &b"hi"[..]));
    // Hard links have no data, whatever their size says.
    let odd = block(b"x", b'1', b"17", |block| block[157] = b'y');
    assert_eq!(read(&archive(&[odd, block(b"z", b'0', b"0", |_| {})])).unwrap().len(), 2);
}

#[test]
fn every_form_of_gnu_tar_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let name = "n".repeat(150);
    std::fs::write(at(&name), b"long").unwrap();
    std::os::unix::fs::symlink("t".repeat(120), at("link")).unwrap();
    let sparse = std::fs::File::create(at("sparse")).unwrap();
    sparse.set_len(900_000).unwrap();
    for piece in 0..30u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 100], piece * 30_000 + 4096).unwrap();
    }
    let expected = std::fs::read(at("sparse")).unwrap();
    let forms = [
        &["--format=gnu"][..],
        &["--format=gnu", "-S"],
        &["--format=posix"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ];
    for form in forms {
        let output = Command::new("tar")
            .args(form)
            .arg("-C")
            .arg(dir.path())
            .args(["-cf", "-", "."])
            .output()
            .unwrap();
        assert!(output.status.success(), "{form:?}");
        let entries = read(&output.stdout).unwrap_or_else(|error| panic!("{form:?}: {error}"));
        let find = |name: &str| entries.iter().find(|(entry, _)| entry.path == Path::new(name)).unwrap();
        assert_eq!(find(&name).1, b"long", "{form:?}");
        assert_eq!(find("link").0.link, Path::new(&"t".repeat(120)), "{form:?}");
        assert!(find("sparse").1 == expected, "{form:?}");
        assert_eq!(find("sparse").0.size, 900_000);
        assert_eq!(find("").0.kind, EntryKind::Directory);
    }
}

#[test]
fn damaged_sparse_maps_are_refused() {
    let record = |text: &str| format!("{} {text}\n", text.len() + 3 + usize::from(text.len() > 6));
    for map in ["0,1,0,1", "5,1,4,1", "0,9", "0,1,2", "0,18446744073709551615,1,1", "x"] {
        let records = [record("GNU.sparse.size=10"), record(&format!("GNU.sparse.map={map}"))].concat();
        let mut data = b"ab".to_vec();
        data.resize(BLOCK, 0);
        let bytes = archive(&[pax_header(&records), block(b"x", b'0', b"2", |_| {}), data]);
        assert!(read(&bytes).is_err(), "{map}");
    }
}

#[test]
fn the_tar_crate_agrees() {
    let entries = everything();
    let borrowed: Vec<_> = entries.iter().map(|(entry, data)| (entry.clone(), data.as_slice())).collect();
    let bytes = write(&borrowed, Timestamps::Seconds);
    let mut archive = tar::Archive::new(Cursor::new(&bytes));
    let mut count = 0;
    for (theirs, (ours, _)) in archive.entries().unwrap().zip(&entries) {
        let theirs = theirs.unwrap();
        assert_eq!(theirs.path().unwrap().components().collect::<PathBuf>(), ours.path);
        assert_eq!(theirs.header().mode().unwrap(), ours.mode);
        assert_eq!(theirs.size(), ours.size);
        count += 1;
    }
    assert_eq!(count, entries.len());
}

prop_compose! {
    fn any_entry()(
        path in "[a-zé]{1,120}(/[a-z]{1,90}){0,3}",
        data in proptest::collection::vec(any::<u8>(), 0..1200),
        mode in 0u32..0o10000,
        uid: u32,
        gid: u32,
        mtime_ns in -4_000_000_000_000_000_000i64..4_000_000_000_000_000_000,
        xattrs in proptest::collection::btree_map("[a-z.]{1,20}", proptest::collection::vec(any::<u8>(), 1..40), 0..3),
    ) -> (LayerEntry, Vec<u8>) {
        let entry = LayerEntry { mode, uid, gid, mtime_ns, xattrs, size: data.len() as u64, ..LayerEntry::new(path, EntryKind::File) };
        (entry, data)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_entries_round_trip(entries in proptest::collection::vec(any_entry(), 0..5)) {
        let borrowed: Vec<_> = entries.iter().map(|(entry, data)| (entry.clone(), data.as_slice())).collect();
        let bytes = write(&borrowed, Timestamps::Nanoseconds);
        prop_assert_eq!(read(&bytes).unwrap(), entries);
    }

    #[test]
    fn damaged_archives_never_panic_or_climb(
        at in 0usize..12_000, value: u8, cut in 0usize..14_000,
    ) {
        let entries = everything();
        let borrowed: Vec<_> = entries.iter().map(|(entry, data)| (entry.clone(), data.as_slice())).collect();
        let mut bytes = write(&borrowed, Timestamps::Seconds);
        let index = at % bytes.len();
        bytes[index] = value;
        bytes.truncate(cut.max(1));
        if let Ok(entries) = read(&bytes) {
            for (entry, _) in entries {
                prop_assert!(entry.path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }

    #[test]
    fn arbitrary_blocks_never_panic(data in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _unused = read(&data);
        let _unused = pax::parse(&data);
        let _unused = numeric::parse(&data[..data.len().min(12)]);
    }
}
