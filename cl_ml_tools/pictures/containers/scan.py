"""The file that is looked at."""

import mmap

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures.limits import PictureLimits

MAX_PARTS = 300_000
"""Chunks, segments or blocks of a file: what a GIF of 75 MB has."""

MAX_JUNK = 65_536
"""Bytes between the parts that belong to none."""

MAX_EXIF = 1_000_000
"""Bytes of EXIF data; a JPEG has 65,533, or a few times that."""


class Scan:
    """The file that is looked at.

    Args:
        data: all of it.
        name: what messages call it.
        limits: how many frames it may have.

    Attributes:
        frames: how many have been found; None where only decoding tells.
    """

    def __init__(self, data: mmap.mmap | bytes, name: str, limits: PictureLimits) -> None:
        self.data = data
        self.name = name
        self.limits = limits
        self.frames: int | None = None
        self._parts = 0

    def count_part(self) -> None:
        """Take note of one more part.

        Raises:
            BadInputError: there are too many.
        """
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise self.refusal(f"is cut into more than {MAX_PARTS} parts")

    def refusal(self, why: str) -> BadInputError:
        """The error to raise for a file that is built like no other."""
        return BadInputError(f"{self.name} {why}. No camera writes that; save it anew with a picture editor.")
