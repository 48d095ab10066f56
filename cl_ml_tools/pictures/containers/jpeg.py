"""JPEG: thousands of scans, each of which goes over the whole picture, or megabytes of EXIF."""

import contextlib
import re
import struct

from cl_ml_tools.pictures.containers import tiff
from cl_ml_tools.pictures.containers.scan import MAX_EXIF, MAX_JUNK, Scan

MAX_SCANS = 200
"""Scans of a JPEG; programs write 10, the most eager optimizers some 60."""

MAX_SCANNED = 20
"""Scans of a JPEG that has as many pixels as are allowed; one that has half of them may have twice as many scans."""

# In the coded data of a JPEG, 0xFF is followed by zero or by a restart; any other marker ends the scan.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def look(scan: Scan) -> None:
    """Count the segments and scans of a JPEG."""
    data = scan.data
    position, components, is_sequential, pixels = 2, 0, True, 0
    scans = junk = 0
    exif = bytearray()
    while found := _MARKER.search(data, position):
        scan.count_part()
        if not scans:
            junk += found.start() - position
            if junk > MAX_JUNK:
                raise scan.refusal("has other things between its parts")
        marker, position = data[found.start() + 1], found.end()
        if marker == 0xD9:
            return
        if marker in (0x01, 0xD8):
            continue
        (size,) = struct.unpack_from(">H", data, position)
        if marker in _START_OF_FRAME:
            components, is_sequential = data[position + 7], marker in (0xC0, 0xC1)
            height, width = struct.unpack_from(">HH", data, position + 3)
            pixels = height * width
        elif marker == 0xDA:
            if not scans:
                _look_at_exif(scan, bytes(exif))
            scans += 1
            if scans > MAX_SCANS or scans * pixels > MAX_SCANNED * scan.limits.pixels:
                raise scan.refusal(f"has {scans} scans or more over {pixels} pixels")
            if is_sequential and data[position + 2] == components:
                return  # all of the picture is in this scan, and need not be searched
        elif marker == 0xE1 and data[position + 2 : position + 6] == b"Exif":
            exif += data[
                position + 8 : position + size
            ]  # what is too long for one segment goes on in the next
            if len(exif) > MAX_EXIF:
                raise scan.refusal(f"has more than {MAX_EXIF} bytes of EXIF")
        position += size


def _look_at_exif(scan: Scan, exif: bytes) -> None:
    # Pillow reads it when it opens a JPEG; before version 13, as often as there are tags.
    with contextlib.suppress(struct.error):
        if len(exif) > 8:
            tiff.look(Scan(exif, scan.name, scan.limits))
