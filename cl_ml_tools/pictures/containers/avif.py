"""AVIF: a small picture by what the file says, made of streams that are decoded as large ones, or of thousands.

The decoder takes memory for what a stream says of itself, up to 268 megapixels, and scales it to what the file says.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

from cl_ml_tools.pictures.containers.av1 import sizes_in
from cl_ml_tools.pictures.containers.scan import Scan

MAX_STREAMS = 4
"""So many times the pixels that a picture may have are decoded for it: itself, alpha, a gain map, a thumbnail."""

_WITH_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


class _Stream(NamedTuple):
    data: bytes | mmap.mmap
    start: int
    end: int
    pictures: int


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def look(scan: Scan) -> None:
    """Look at the sizes that the streams of an AVIF have by their own headers."""
    pixels = 0
    for stream in _streams(scan, 0, len(scan.data)):
        for width, height in sizes_in(stream.data, stream.start, stream.end):
            scan.limits.check(scan.name, width, height, stream.pictures)
            pixels += width * height * stream.pictures
            if pixels > MAX_STREAMS * scan.limits.pixels:
                raise scan.refusal(f"is made of {pixels} pixels or more")


def _streams(scan: Scan, start: int, end: int) -> Iterator[_Stream]:
    """What is coded: each item, and each track."""
    data = scan.data
    boxes = list(_boxes(scan, start, end))
    for box in boxes:
        if box.kind == b"meta":
            inner = list(_boxes(scan, box.start + 4, box.end))
            aside = next((other.start for other in inner if other.kind == b"idat"), 0)
            for item in (other for other in inner if other.kind == b"iloc"):
                yield from _items(scan, item.start, aside)
        elif box.kind in _WITH_BOXES:
            yield from _streams(scan, box.start, box.end)
    sizes = next((box for box in boxes if box.kind == b"stsz"), None)
    if sizes is not None:
        each, count = struct.unpack_from(">II", data, sizes.start + 4)
        scan.limits.check(scan.name, 1, 1, count)
        total = each * count or sum(struct.unpack_from(f">{count}I", data, sizes.start + 12))
        for box in boxes:
            if box.kind in (b"stco", b"co64"):
                yield from _chunks(scan, box, total, count)


def _boxes(scan: Scan, start: int, end: int) -> Iterator[_Box]:
    data = scan.data
    while start + 8 <= end:
        scan.count_part()
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        following = min(end, start + size) if size else end
        if following < body:
            return
        yield _Box(kind, body, following)
        start = following


def _items(scan: Scan, at: int, aside: int) -> Iterator[_Stream]:
    """The items of an ``iloc`` box (ISO/IEC 14496-12, 8.11.3), each put together of its extents."""
    data = scan.data
    version = data[at]
    offset_bytes, length_bytes = data[at + 4] >> 4, data[at + 4] & 15
    base_bytes, index_bytes = data[at + 5] >> 4, data[at + 5] & 15 if version else 0
    id_bytes = 4 if version == 2 else 2
    count, at = _number(data, at + 6, id_bytes)
    for _ in range(count):
        is_aside, at = _number(data, at + id_bytes, 2 if version else 0)
        base, at = _number(data, at + 2, base_bytes)
        extents, at = _number(data, at, 2)
        parts = []
        for _ in range(extents):
            scan.count_part()
            offset, at = _number(data, at + index_bytes, offset_bytes)
            length, at = _number(data, at, length_bytes)
            begin = base + offset + (aside if is_aside & 15 == 1 else 0)
            parts.append((begin, min(len(data), begin + length) if length else len(data)))
        size = sum(max(0, end - begin) for begin, end in parts)
        if size > len(data):
            raise scan.refusal("has parts that lie on each other")
        if len(parts) == 1:
            yield _Stream(data, *parts[0], 1)
        else:
            yield _Stream(b"".join(data[begin:end] for begin, end in parts), 0, size, 1)


def _chunks(scan: Scan, box: _Box, total: int, pictures: int) -> Iterator[_Stream]:
    """The chunks of a track. Their ends are not told: the next one's begin, or the bytes of all, is the latest."""
    count, at = _number(scan.data, box.start + 4, 4)
    starts = []
    for _ in range(count):
        scan.count_part()
        start, at = _number(scan.data, at, 4 if box.kind == b"stco" else 8)
        starts.append(start)
    starts.sort()
    for start, following in zip(starts, [*starts[1:], len(scan.data)], strict=True):
        yield _Stream(scan.data, start, min(following, start + total), pictures)


def _number(data: bytes | mmap.mmap, at: int, size: int) -> tuple[int, int]:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "big"), at + size
