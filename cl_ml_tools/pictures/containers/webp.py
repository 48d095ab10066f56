"""WebP: a canvas for which memory is taken at once, thousands of frames, and a flag that is missing."""

import struct
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from cl_ml_tools.pictures.containers.scan import Scan

_ANIMATED = 0x02
_SEE_THROUGH = 0x10
_FLAGS_AT = 20


def look(scan: Scan) -> None:
    """Look at the size of a WebP and count its frames."""
    kind = scan.data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(scan.data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", scan.data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", scan.data, 26))
    # Pillow's decoder takes memory for the canvas before it tells the size.
    scan.limits.check(scan.name, width, height)
    position, frames = 12, 0
    while position < len(scan.data):
        scan.count_part()
        kind, size = struct.unpack_from("<4sI", scan.data, position)
        frames += kind == b"ANMF"
        scan.limits.check(scan.name, width, height, max(1, frames))
        position += 8 + size + (size & 1)


def with_true_flag(file: BinaryIO) -> BinaryIO:
    """The file, or of an animation that is transparent and whose flag denies it, a copy that says so.

    The encoder of libwebp cuts what is transparent off at the edges of the frames. Where nothing else is, it says
    that the file has no transparency, and Pillow shows black around the frames.
    """
    file.seek(0)
    head = file.read(_FLAGS_AT + 10)
    file.seek(0)
    if head[12:16] != b"VP8X" or head[_FLAGS_AT] & (_ANIMATED | _SEE_THROUGH) != _ANIMATED:
        return file
    data = bytearray(file.read())
    file.seek(0)
    if not _shows_its_canvas(data):
        return file
    data[_FLAGS_AT] |= _SEE_THROUGH
    return BytesIO(data)


def _shows_its_canvas(data: bytes | bytearray) -> bool:
    """Whether the first frame leaves something of the canvas free, or a frame is taken away after it was shown."""
    position, is_first = 12, True
    while position + 24 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, position)
        if kind == b"ANMF":
            # Left, top, and then width and height less 1, as the canvas has them.
            covers = not any(data[position + 8 : position + 14]) and (
                data[position + 14 : position + 20] == data[_FLAGS_AT + 4 : _FLAGS_AT + 10]
            )
            if (is_first and not covers) or data[position + 23] & 1:
                return True
            is_first = False
        position += 8 + size + (size & 1)
    return False


def mark_see_through(path: Path) -> None:
    """Set that flag in an animation that was written from frames with transparency."""
    with path.open("r+b") as file:
        head = file.read(_FLAGS_AT + 1)
        if head[12:16] == b"VP8X":
            file.seek(_FLAGS_AT)
            file.write(bytes([head[_FLAGS_AT] | _SEE_THROUGH]))
