"""GIF: thousands of frames, of blocks, or a canvas that grows."""

import struct

from cl_ml_tools.pictures.containers.scan import MAX_JUNK, Scan


def look(scan: Scan) -> None:
    """Count the frames of a GIF, and its blocks."""
    data = scan.data
    canvas = struct.unpack_from("<HH", data, 6)
    position = 13 + _colour_table(data[10])
    scan.frames = junk = 0
    while True:
        scan.count_part()
        kind = data[position]
        if kind == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, position + 1)
            # Pillow lets the canvas grow with its frames.
            canvas = max(canvas[0], left + width), max(canvas[1], top + height)
            scan.frames += 1
            scan.limits.check(scan.name, *canvas, scan.frames)
            position = _behind_blocks(scan, position + 11 + _colour_table(flags))
        elif kind == 0x21:
            position = _behind_blocks(scan, position + 2)
        elif kind == 0x3B:
            return
        else:
            junk += 1
            position += 1
            if junk > MAX_JUNK:
                raise scan.refusal("has other things between its parts")


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind_blocks(scan: Scan, position: int) -> int:
    while size := scan.data[position]:
        scan.count_part()
        position += size + 1
    return position + 1
