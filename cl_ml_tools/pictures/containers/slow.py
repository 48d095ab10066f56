"""BMP and PPM: what Pillow decodes in Python."""

import re
import struct

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures.containers.scan import Scan

MAX_SLOW_PIXELS = 4_000_000
"""Pixels of a picture that Pillow decodes in Python; the file may have four times as many bytes."""

MAX_HEADER = 4096
"""Bytes in which the header of a PPM has to end, comments included."""

MAX_COMMENTS = 1000
"""Comments in a PPM that is written as text: Pillow copies a megabyte to take one out."""


def look_at_bmp(scan: Scan) -> None:
    """Refuse a large BMP that is run-length coded."""
    width, height, _, _, compression = struct.unpack_from("<iiHHI", scan.data, 18)
    if compression in (1, 2):
        _check(scan, abs(width * height))


def look_at_ppm(scan: Scan) -> None:
    """Refuse a large PPM that is written as text, or one whose header has no end."""
    words = re.sub(rb"#[^\r\n]*", b"", scan.data[:MAX_HEADER]).split(maxsplit=4)
    if len(words) < 4:
        raise scan.refusal(f"has no header within {MAX_HEADER} bytes")
    if words[0] in (b"P1", b"P2", b"P3"):
        _check(scan, int(words[1][:10]) * int(words[2][:10]) if (words[1] + words[2]).isdigit() else 0)
        if scan.data[:].count(b"#") > MAX_COMMENTS:
            raise scan.refusal(f"has more than {MAX_COMMENTS} comments")


def _check(scan: Scan, pixels: int) -> None:
    if pixels > MAX_SLOW_PIXELS or len(scan.data) > 4 * MAX_SLOW_PIXELS:
        raise BadInputError(
            f"{scan.name} is coded in a way that is slow to decode; such a file may have {MAX_SLOW_PIXELS} pixels. "
            f"Save it as PNG."
        )
