use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(data: &[u8], kind: Compression, level: Option<i32>, threads: usize, step: usize) -> Vec<u8> {
    let sink = Sink::default();
    let mut out = compressor(Box::new(sink.clone()), &CompressionOptions { kind, level }, threads).unwrap();
    for piece in data.chunks(step) {
        out.write_all(piece).unwrap();
        out.flush().unwrap();
    }
    out.finish().unwrap();
    sink.0.lock().unwrap().clone()
}

fn unpack(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(Box::new(io::Cursor::new(data.to_vec())))?.read_to_end(&mut out)?;
    Ok(out)
}

/// 3.5 MiB that compress somewhat.
fn sample() -> Vec<u8> {
    let mut state = 1u32;
    (0..3_670_016u32)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 5 == 0 { (state >> 24) as u8 } else { (i / 64) as u8 }
        })
        .collect()
}

fn filter(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program} {args:?}");
        output.stdout
    })
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_how_they_are_written() {
    let data = sample();
    for kind in [Compression::Gzip, Compression::Zstd, Compression::Uncompressed] {
        let one = pack(&data, kind, None, 1, data.len());
        assert_eq!(one, pack(&data, kind, None, 4, 10_007), "{kind}");
        assert_eq!(one, pack(&data, kind, None, 2, 1 << 20), "{kind}");
        assert_eq!(unpack(&one).unwrap(), data, "{kind}");
    }
}

#[test]
fn other_programs_read_what_we_write() {
    let data = sample();
    for (kind, program) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        for data in [&data[..], b"", b"x"] {
            let packed = pack(data, kind, None, 2, 1 << 16);
            filter(program, &["-t"], &packed);
            assert_eq!(filter(program, &["-dc"], &packed), data, "{kind}");
        }
    }
}

#[test]
fn we_read_what_other_programs_write() {
    let data = sample();
    for (program, encoding) in
        [("gzip", Encoding::Gzip), ("zstd", Encoding::Zstd), ("bzip2", Encoding::Bzip2), ("xz", Encoding::Xz)]
    {
        let mut packed = filter(program, &["-c"], &data);
        assert_eq!(sniff(&packed), encoding);
        packed.extend(filter(program, &["-c"], b"tail"));
        assert_eq!(unpack(&packed).unwrap(), [&data[..], b"tail"].concat(), "{program}: two members");
    }
    assert_eq!(unpack(b"plain").unwrap(), b"plain");
    assert_eq!(unpack(b"").unwrap(), b"");
}

#[test]
fn cut_damaged_or_extended_streams_are_errors() {
    let data = &sample()[..100_000];
    for program in ["gzip", "zstd", "bzip2", "xz"] {
        let mut args = vec!["-c"];
        if program == "zstd" {
            args.push("--check");
        }
        let packed = filter(program, &args, data);
        for cut in [8, packed.len() / 2, packed.len() - 1] {
            assert!(unpack(&packed[..cut]).is_err(), "{program} cut at {cut}");
        }
        for garbage in [&b"garbage!"[..], b"x"] {
            assert!(unpack(&[&packed[..], garbage].concat()).is_err(), "{program} with garbage {garbage:?}");
        }
        let mut damaged = packed.clone();
        damaged[packed.len() / 2] ^= 0x55;
        assert!(unpack(&damaged).map_or(true, |out| out != data), "{program} damaged");
        assert!(unpack(&damaged).is_err(), "{program} damaged");
    }
}

#[test]
fn output_and_memory_are_bounded() {
    let zeros = pack(&vec![0; 4 << 20], Compression::Gzip, None, 2, 1 << 20);
    let limits = DecodeLimits { max_output: Some(1 << 20), ..DecodeLimits::default() };
    let mut reader = decompress_with(Box::new(io::Cursor::new(zeros)), &limits).unwrap().reader;
    let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
    assert_eq!(error.to_string(), "unpacks to more than 1048576 bytes");

    let small = DecodeLimits { max_memory: 1 << 20, ..DecodeLimits::default() };
    for (program, args) in [("xz", &["-c", "-9"][..]), ("zstd", &["-c", "-19"][..])] {
        let packed = filter(program, args, &sample());
        let mut reader = decompress_with(Box::new(io::Cursor::new(packed)), &small).unwrap().reader;
        assert!(io::copy(&mut reader, &mut io::sink()).is_err(), "{program}");
    }
}

#[test]
fn levels_are_checked() {
    for (kind, level, good) in [
        (Compression::Gzip, 0, true),
        (Compression::Gzip, 9, true),
        (Compression::Gzip, 10, false),
        (Compression::Gzip, -2, false),
        (Compression::Zstd, 22, true),
        (Compression::Zstd, 23, false),
    ] {
        let options = CompressionOptions { kind, level: Some(level) };
        assert_eq!(compressor(Box::new(io::sink()), &options, 1).is_ok(), good, "{kind} {level}");
    }
    let data = b"some data that is some data";
    assert_eq!(unpack(&pack(data, Compression::Gzip, Some(0), 1, 5)).unwrap(), data);
}

#[test]
fn a_dropped_compressor_leaves_a_cut_stream_and_no_thread() {
    let sink = Sink::default();
    let options = CompressionOptions::new(Compression::Gzip);
    let mut out = compressor(Box::new(sink.clone()), &options, 2).unwrap();
    out.write_all(&sample()).unwrap();
    drop(out);
    assert_eq!(Arc::strong_count(&sink.0), 1);
}
