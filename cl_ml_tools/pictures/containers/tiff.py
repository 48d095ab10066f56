"""TIFF, and EXIF data, which is built like it: pages in a circle, tags that lie on each other, huge tiles."""

import contextlib
import struct
from collections.abc import Iterator

from cl_ml_tools.pictures.containers.scan import Scan

MAX_TILES = 250_000
"""Strips or tiles of a page: 50 megapixels in tiles of 16 x 16, the smallest of the format."""

MAX_TILE_PIXELS = 4_194_304
"""Pixels of one tile: programs write 16 x 16 to 1024 x 1024, and memory for a whole one is taken at once."""

MAX_NUMBERS = 2_000_000
"""Numbers in the tags of all directories: where 50 megapixels in tiles of 16 x 16 lie takes 400,000."""

MAX_TAG_BYTES = 1_000_000_000
"""Bytes in the tags of all directories, which may share them: they are read anew for each."""

# By the type of a tag: the bytes of a value, and how much it counts once it is an object of Python.
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_BYTES, _FRACTIONS = (1, 2, 6, 7), (5, 10)
_FRACTION_COUNTS_AS = 10

_TILE_WIDTH, _TILE_HEIGHT, _STRIPS, _TILES = 322, 323, 273, 324
_PARTS = (34665, 34853, 40965)
"""Tags that say where another directory lies: EXIF, the place, interoperability."""


def look(scan: Scan) -> None:
    """Count the pages of a TIFF, or the directories of EXIF data, their tags and their tiles."""
    data = scan.data
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    if is_big and order == ">":
        raise scan.refusal("is a BigTIFF with its most significant byte first, which is not read")
    number = "Q" if is_big else "I"
    (position,) = struct.unpack_from(order + number, data, struct.calcsize(number))
    tags = _Tags(scan, order, is_big=is_big)
    seen: set[int] = set()
    scan.frames = 0
    while position and position not in seen:
        scan.frames += 1
        scan.limits.check(scan.name, 1, 1, scan.frames)
        seen.add(position)
        position = tags.look(position)
        while tags.parts:
            part = tags.parts.pop()
            if part not in seen:
                seen.add(part)
                tags.look(part)


class _Tags:
    """The tags of one directory after the other.

    Attributes:
        parts: where directories lie that belong to those that have been looked at.
    """

    def __init__(self, scan: Scan, order: str, *, is_big: bool) -> None:
        self.parts: list[int] = []
        self._scan = scan
        self._order = order
        self._count = struct.Struct(order + ("Q" if is_big else "H"))
        self._entry = struct.Struct(order + ("HHQQ" if is_big else "HHII"))
        self._following = struct.Struct(order + ("Q" if is_big else "I"))
        self._inline = 8 if is_big else 4
        self._numbers = self._bytes = 0

    def look(self, position: int) -> int:
        """Look at the directory that lies there; returns where the next one does, 0 if it is damaged."""
        with contextlib.suppress(struct.error):
            return self._look(position)
        return 0

    def _look(self, position: int) -> int:
        scan = self._scan
        (count,) = self._count.unpack_from(scan.data, position)
        position += self._count.size
        in_this = 0
        tile = {_TILE_WIDTH: 1, _TILE_HEIGHT: 1}
        for at, tag, kind, length, value in self._entries(position, count):
            if tag in (_STRIPS, _TILES) and length > MAX_TILES:
                raise scan.refusal(f"is cut into more than {MAX_TILES} tiles")
            if tag in tile:
                (tile[tag],) = struct.unpack_from(self._order + ("H" if kind == 3 else "I"), scan.data, at)
                if tile[_TILE_WIDTH] * tile[_TILE_HEIGHT] > MAX_TILE_PIXELS:
                    raise scan.refusal(f"has tiles of more than {MAX_TILE_PIXELS} pixels")
            elif tag in _PARTS:
                self.parts.append(value)
            size = _SIZES.get(kind, 0) * length
            if value + size > len(scan.data) and size > self._inline:
                continue  # decoders leave out what lies beyond the end
            if size > self._inline:
                in_this += size
            if kind not in _BYTES and size:
                self._numbers += length * (_FRACTION_COUNTS_AS if kind in _FRACTIONS else 1)
            self._check(in_this)
        self._bytes += in_this
        (following,) = self._following.unpack_from(scan.data, position + count * self._entry.size)
        return int(following)

    def _check(self, in_this: int) -> None:
        scan = self._scan
        if in_this > len(scan.data) or self._bytes + in_this > MAX_TAG_BYTES:
            raise scan.refusal("has tags that lie on each other")
        if self._numbers > MAX_NUMBERS:
            raise scan.refusal(f"has more than {MAX_NUMBERS} numbers in its tags")

    def _entries(self, position: int, count: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Where its value lies if it is short, tag, type, length and value or place of each entry."""
        for number in range(count):
            self._scan.count_part()
            at = position + number * self._entry.size
            tag, kind, length, value = self._entry.unpack_from(self._scan.data, at)
            yield at + self._entry.size - self._inline, tag, kind, length, value
