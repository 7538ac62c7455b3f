#!/usr/bin/env python3
"""Writes the archives of tests/it/archives.rs: make.py DIR puts one file per case there.

What ADD makes of each is in listings.txt, as a buildkitd made it.
"""
import bz2, gzip, io, lzma, os, subprocess, sys, tarfile

TIME = 1577934245


def entry(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, uid=0, gid=0, link="", pax=None, dev=(0, 0), mtime=TIME):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, uid, gid, mtime
    info.linkname, info.size, info.pax_headers = link, len(data), pax or {}
    info.devmajor, info.devminor = dev
    return info, data


def directory(name, mode=0o755, **rest):
    return entry(name, tarfile.DIRTYPE, mode=mode, **rest)


def symlink(name, target, **rest):
    return entry(name, tarfile.SYMTYPE, link=target, mode=0o777, **rest)


def hardlink(name, target, **rest):
    return entry(name, tarfile.LNKTYPE, link=target, **rest)


def tar(*entries, format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def raw(name, kind, data=b"", size=None):
    """A header as it stands, then its data: for what libraries do not write."""
    info, _ = entry("x", kind, b"")
    info.size = len(data) if size is None else size
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[0:100] = name.encode().ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + b"\0" * (-len(data) % 512)


END = b"\0" * 1024
plain = tar(directory("sub"), entry("sub/f", data=b"hello\n"), symlink("l", "sub/f"), hardlink("h", "sub/f"))


def pseudo(count):
    state, out = 1, bytearray()
    while len(out) < count:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out += state.to_bytes(8, "little")
    return bytes(out[:count])


big = tar(entry("big", data=pseudo(300_000)), entry("after", data=b"x"))


def packed(tool, data):
    return subprocess.run([tool, "-c"], input=data, capture_output=True, check=True).stdout


def sparse_gnu():
    data = b"A" * 512 + b"B" * 512
    header = bytearray(raw("sparse", b"S", b"", size=len(data)))
    for index, (offset, length) in enumerate([(0, 512), (1 << 20, 512)]):
        at = 386 + index * 24
        header[at:at + 12] = b"%011o\0" % offset
        header[at + 12:at + 24] = b"%011o\0" % length
    header[482:483] = b"\0"
    header[483:495] = b"%011o\0" % ((1 << 20) + 512)
    header[257:265] = b"ustar  \0"
    header[345:386] = b"\0" * 41
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header[:512]) + data + END


def sparse_pax():
    table = b"2\n0\n512\n1048576\n512\n"
    data = table.ljust(512, b"\0") + b"A" * 512 + b"B" * 512
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": str((1 << 20) + 512)}
    return tar(entry("GNUSparseFile.0/sparse", data=data, pax=pax))


CASES = {
    "plain": plain,
    "gzip": gzip.compress(plain, mtime=0),
    "bzip2": bz2.compress(plain),
    "xz": lzma.compress(plain),
    "zstd": packed("zstd", plain),
    "lzma-alone": lzma.compress(plain, format=lzma.FORMAT_ALONE),
    "gzip-members": gzip.compress(plain[:1024], mtime=0) + gzip.compress(plain[1024:], mtime=0),
    "zstd-frames": packed("zstd", plain[:1024]) + packed("zstd", plain[1024:]),
    "xz-streams": lzma.compress(plain[:1024]) + lzma.compress(plain[1024:]),
    "bzip2-streams": bz2.compress(plain[:1024]) + bz2.compress(plain[1024:]),
    "gzip-then-noise": gzip.compress(plain, mtime=0) + b"noise",
    "cut-gzip-early": gzip.compress(big, mtime=0)[:200],
    "cut-bzip2-early": bz2.compress(big)[:200],
    "cut-xz-early": lzma.compress(big)[:200],
    "cut-zstd-early": packed("zstd", big)[:200],
    "cut-gzip-late": gzip.compress(big, mtime=0)[:-20000],
    "cut-bzip2-late": bz2.compress(big)[:-20000],
    "cut-xz-late": lzma.compress(big)[:-20000],
    "cut-zstd-late": packed("zstd", big)[:-20000],
    "cut-gzip-magic": gzip.compress(plain, mtime=0)[:4],
    "cut-bzip2-magic": bz2.compress(plain)[:4],
    "cut-xz-magic": lzma.compress(plain)[:6],
    "cut-zstd-magic": packed("zstd", plain)[:4],
    "gzip-of-text": gzip.compress(b"just text\n" * 200, mtime=0),
    "xz-of-text": lzma.compress(b"just text\n" * 200),
    "bzip2-of-nothing": bz2.compress(b""),
    "gzip-of-nothing": gzip.compress(b"", mtime=0),
    "empty-file": b"",
    "empty-archive": END,
    "zeros": b"\0" * 10240,
    "one-zero-block": b"\0" * 512,
    "text": b"no archive at all\n" * 100,
    "cut-in-data": tar(entry("f", data=b"x" * 2000))[:1024],
    "cut-in-header": plain[:1100],
    "no-end-blocks": plain[: plain.rindex(b"ustar") - 257 + 512],
    "junk-after-end": plain + b"junk" * 1000,
    "two-archives": plain + tar(entry("second", data=b"2")),
    "bad-checksum-first": plain[:148] + b"0000000\0" + plain[156:],
    "bad-checksum-second": plain[: 512 + 148] + b"0000000\0" + plain[512 + 156:],
    "pax-long": tar(entry("p/" + "n" * 200 + "/f", data=b"x"), symlink("pl", "t" * 300)),
    "gnu-long": tar(entry("p/" + "n" * 200 + "/f", data=b"x"), symlink("pl", "t" * 300), format=tarfile.GNU_FORMAT),
    "ustar-prefix": tar(entry("p" * 90 + "/" + "n" * 90, data=b"x"), format=tarfile.USTAR_FORMAT),
    "v7": tar(entry("f", data=b"x"), format=tarfile.USTAR_FORMAT).replace(b"ustar\x0000", b"\0" * 8, 1),
    "pax-times": tar(entry("f", data=b"x", pax={"mtime": "1577934245.987654321", "atime": "1.5"})),
    "pax-global": raw("g", b"g", b"52 comment=0123456789012345678901234567890123456789\n") + plain,
    "pax-xattrs": tar(entry("f", data=b"x", pax={"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "two words"})),
    "huge-ids": tar(entry("f", data=b"x", uid=3_000_000_000, gid=4_000_000_000)),
    "gnu-huge-ids": tar(entry("f", data=b"x", uid=3_000_000_000, gid=4_000_000_000), format=tarfile.GNU_FORMAT),
    "ids-of-64-bits": tar(entry("f", data=b"x", uid=5_000_000_000)),
    "owners": tar(directory("a", uid=1, gid=2), entry("a/f", data=b"x", uid=3, gid=4), symlink("a/l", "f", uid=5, gid=6)),
    "modes": tar(entry("suid", mode=0o4755), entry("sgid", mode=0o2755), directory("sticky", mode=0o1777), entry("none", mode=0), directory("closed", mode=0)),
    "sparse-gnu": sparse_gnu(),
    "sparse-pax": sparse_pax(),
    "devices": tar(entry("c", tarfile.CHRTYPE, dev=(1, 3), mode=0o666), entry("b", tarfile.BLKTYPE, dev=(7, 0), mode=0o660), entry("p", tarfile.FIFOTYPE)),
    "device-0-0": tar(entry("c", tarfile.CHRTYPE, dev=(0, 0), mode=0o666)),
    "contiguous": raw("f", b"7", b"x") + END,
    "unknown-type": raw("f", b"Z", b"x") + raw("g", b"0", b"y") + END,
    "absolute": tar(entry("/abs", data=b"x"), directory("/dir"), entry("/dir/f", data=b"y"), hardlink("/h", "/abs")),
    "dots": tar(directory("./"), directory("./a/"), entry("./a/./f", data=b"x"), entry("a//g", data=b"y"), hardlink("./h", "./a/f")),
    "parent-escape": tar(entry("../escaped", data=b"x")),
    "parent-inside": tar(entry("a/../b", data=b"x")),
    "parent-deep": tar(entry("a/../../../escaped", data=b"x")),
    "symlink-parent": tar(symlink("l", "/etc"), entry("l/f", data=b"x")),
    "symlink-relative-parent": tar(symlink("l", "../../.."), entry("l/f", data=b"x")),
    "symlink-inside": tar(directory("a"), symlink("l", "a"), entry("l/f", data=b"x")),
    "symlink-dangling-parent": tar(symlink("l", "missing"), entry("l/f", data=b"x")),
    "symlink-to-self": tar(symlink("l", "l"), entry("l/f", data=b"x")),
    "symlink-as-directory": tar(directory("a"), symlink("l", "a"), directory("l", mode=0o700)),
    "symlink-replaced": tar(symlink("l", "/etc/passwd"), entry("l", data=b"x")),
    "hardlink-missing": tar(hardlink("h", "missing")),
    "hardlink-escape": tar(hardlink("h", "../../etc/passwd")),
    "hardlink-absolute": tar(entry("f", data=b"x"), hardlink("h", "/f")),
    "hardlink-to-symlink": tar(symlink("l", "/etc/passwd"), hardlink("h", "l")),
    "hardlink-through-symlink": tar(symlink("l", "/"), hardlink("h", "l/etc/passwd")),
    "hardlink-to-directory": tar(directory("a"), hardlink("h", "a")),
    "hardlink-to-itself": tar(entry("f", data=b"x"), hardlink("f", "f")),
    "no-directories": tar(entry("a/b/c/f", data=b"x")),
    "directory-after": tar(entry("a/f", data=b"x"), directory("a", mode=0o700, uid=7)),
    "directory-twice": tar(directory("a", mode=0o700), entry("a/f", data=b"x"), directory("a", mode=0o755)),
    "file-twice": tar(entry("f", data=b"first"), entry("f", data=b"2", mode=0o600)),
    "file-then-directory": tar(entry("f", data=b"x"), directory("f"), entry("f/g", data=b"y")),
    "directory-then-file": tar(directory("f"), entry("f/g", data=b"y"), entry("f", data=b"x")),
    "file-as-parent": tar(entry("f", data=b"x"), entry("f/g", data=b"y")),
    "root-entry": tar(directory(".", mode=0o700, uid=9), entry("f", data=b"x")),
    "root-file": tar(entry(".", data=b"x"), entry("f", data=b"y")),
    "empty-name": raw("", b"0", b"x") + raw("g", b"0", b"y") + END,
    "slash-name": raw("/", b"5") + raw("g", b"0", b"y") + END,
    "file-with-slash": raw("f/", b"0", b"") + raw("g", b"0", b"y") + END,
    "whiteout": tar(entry("a"), entry(".wh.a")),
    "whiteout-alone": tar(entry(".wh.x")),
    "whiteout-opaque": tar(directory("a"), entry("a/f"), entry("a/.wh..wh..opq")),
    "whiteout-plnk": tar(directory(".wh..wh.plnk"), entry(".wh..wh.plnk/1", data=b"x"), hardlink("f", ".wh..wh.plnk/1")),
    "whiteout-empty": tar(entry(".wh.")),
    "whiteout-parent": tar(entry("a/.wh...")),
    "latin1": raw("caf\u00e9", b"0", b"x") + END,
    "invalid-utf8": raw("X", b"0", b"x").replace(b"X\0", b"\xff\0", 1) + END,
    "control-characters": tar(entry("a\nb\x1b[31m", data=b"x")),
    "negative-time": tar(entry("f", data=b"x", mtime=-5)),
    "far-time": tar(entry("f", data=b"x", mtime=1 << 40)),
    "huge-size": raw("f", b"0", b"x", size=0o77777777777) + END,
}


def recheck(block):
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


for name in ("v7", "invalid-utf8"):
    CASES[name] = recheck(CASES[name][:512]) + CASES[name][512:]

if __name__ == "__main__":
    for name, data in CASES.items():
        with open(os.path.join(sys.argv[1], name), "wb") as out:
            out.write(data)
