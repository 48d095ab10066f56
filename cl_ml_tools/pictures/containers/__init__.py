"""What a file claims and how it is built, looked at before Pillow decodes anything of it.

Some files of a few kilobytes keep a decoder busy for minutes, or fill the memory, although their pictures are
small: thousands of frames, scans, chunks or tiles. What no camera and no program writes is refused here, at a
small share of the cost of decoding. A file that is merely damaged passes: its decoder will say so.
"""

import contextlib
import mmap
import re
import struct
from collections.abc import Callable
from typing import BinaryIO

from cl_ml_tools.pictures.containers import avif, gif, jpeg, png, slow, tiff, webp
from cl_ml_tools.pictures.containers.scan import MAX_EXIF, Scan
from cl_ml_tools.pictures.limits import PictureLimits

_LOOKS: list[tuple[re.Pattern[bytes], Callable[[Scan], None]]] = [
    (re.compile(rb"GIF8[79]a"), gif.look),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), png.look),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), webp.look),
    (re.compile(rb"\xff\xd8\xff"), jpeg.look),
    (re.compile(rb"(II|MM)(\0[*+]|[*+]\0)"), tiff.look),
    (re.compile(rb"....ftyp(avi[fs]|mi[fa]1|msf1)", re.DOTALL), avif.look),
    (re.compile(rb"BM"), slow.look_at_bmp),
    (re.compile(rb"P[0-6fy]"), slow.look_at_ppm),
]


def check_exif(exif: bytes, name: str, limits: PictureLimits) -> None:
    """Do nothing for EXIF data that is not built to keep its reader busy.

    Args:
        exif: as it stands in the file.
        name: what messages call the file.
        limits: how many directories it may have.

    Raises:
        BadInputError: it is.
    """
    data = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    scan = Scan(data, name, limits)
    if len(data) > MAX_EXIF:
        raise scan.refusal(f"has more than {MAX_EXIF} bytes of EXIF")
    if len(data) > 8:
        tiff.look(scan)


def count_frames(file: BinaryIO, name: str, limits: PictureLimits) -> int | None:
    """Count the frames or pages of a file where only counting tells; None for any other file.

    Args:
        file: open on disk; it is left at its beginning.
        name: what messages call it.
        limits: how large the picture may be.

    Raises:
        BadInputError: it is built to keep a decoder busy, or has too many frames.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    look = next((look for magic, look in _LOOKS if magic.match(head)), None)
    if look is None:
        return None
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scan = Scan(data, name, limits)
        # Where it ends too early, decoding will tell.
        with contextlib.suppress(struct.error, IndexError):
            look(scan)
        return scan.frames
