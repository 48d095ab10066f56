"""TIFF: thousands of pages, which may be one in a circle, or millions of tiles."""

import struct

from cl_ml_tools.pictures.containers.scan import Scan

MAX_TILES = 250_000
"""Strips or tiles of a TIFF: 50 megapixels in tiles of 16 x 16, the smallest of the format."""


def look(scan: Scan) -> None:
    """Count the pages of a TIFF, their tags and their tiles."""
    data = scan.data
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    if is_big and order == ">":
        raise scan.refusal("is a BigTIFF with its most significant byte first, which is not read")
    number, entry = ("Q", struct.Struct("<HHQQ")) if is_big else ("I", struct.Struct(order + "HHII"))
    width = struct.calcsize(number)
    (position,) = struct.unpack_from(order + number, data, width)
    seen: set[int] = set()
    scan.frames = 0
    while position and position not in seen:
        seen.add(position)
        scan.frames += 1
        scan.limits.check(scan.name, 1, 1, scan.frames)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, position)
        position += 8 if is_big else 2
        for _ in range(count):
            scan.count_part()
            tag, _, length, _ = entry.unpack_from(data, position)
            if tag in (273, 324) and length > MAX_TILES:  # where its strips or tiles lie
                raise scan.refusal(f"is cut into more than {MAX_TILES} tiles")
            position += entry.size
        (position,) = struct.unpack_from(order + number, data, position)
