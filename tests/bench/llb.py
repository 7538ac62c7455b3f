#!/usr/bin/env python3
"""Writes a definition of many cheap vertices to standard output, for `buildctl build < definition`.

    llb.py [CHAINS [LENGTH]]        (100 chains of 100 steps and one step that gathers them: 10,001 vertices)

Each vertex makes a small file on top of the one before it; the last one copies a file out of every chain. So the graph is
deep and wide, needs no base image, and runs in any builder. Encoded by hand: a benchmark should not need a build.
"""
import hashlib
import sys


def number(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(index, value):
    """A field of a message: numbers as varints, everything else by its length."""
    if isinstance(value, int):
        return number(index << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(index << 3 | 2) + number(len(value)) + value


class Definition:
    def __init__(self):
        self.ops = []
        self.metadata = []

    def add(self, op, name=None):
        """Adds an op and gives back its digest."""
        digest = "sha256:" + hashlib.sha256(op).hexdigest()
        self.ops.append(op)
        if name:
            # description, a map: what progress calls the vertex.
            shown = field(2, field(1, "llb.customname") + field(2, name))
            self.metadata.append(field(2, field(1, digest) + field(2, shown)))
        return digest

    def bytes(self):
        return b"".join(field(1, op) for op in self.ops) + b"".join(self.metadata)


def edge(digest):
    return field(1, field(1, digest))


def action(first, second, kind, body):
    return field(2, field(1, first) + field(2, second) + field(3, 0) + field(kind, body))


def mkfile(below, path, text):
    """A vertex with one file more than the one below."""
    file = field(1, path) + field(2, 0o644) + field(3, text) + field(5, -1)
    file_op = action(0 if below else -1, -1, 5, file)
    return (edge(below) if below else b"") + field(4, file_op)


def gather(ends, path):
    """A vertex with `path` of each of `ends`, in the order of actions: each works on the output of the one before."""
    actions = b""
    for index in range(len(ends)):
        copy = field(1, path) + field(2, "/end%d" % index) + field(4, -1) + field(11, -1)
        base = -1 if index == 0 else len(ends) + index - 1
        output = 0 if index == len(ends) - 1 else -1
        actions += field(2, field(1, base) + field(2, index) + field(3, output) + field(4, copy))
    return b"".join(edge(end) for end in ends) + field(4, actions)


def main():
    chains = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    length = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    definition = Definition()
    ends = []
    for chain in range(chains):
        below = None
        for step in range(length):
            below = definition.add(mkfile(below, "/f%d" % step, "%d %d" % (chain, step)))
        ends.append(below)
    last = definition.add(gather(ends, "/f%d" % (length - 1)), "gather")
    # The vertex without an op says what is wanted.
    definition.add(edge(last))
    sys.stdout.buffer.write(definition.bytes())


main()
