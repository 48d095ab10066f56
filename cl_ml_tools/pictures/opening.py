"""The one place where a picture is opened.

A picture from outside is never trusted: few formats are opened, the header's size is looked at before any
pixel is decoded, and whatever a decoder raises is `cl_ml_tools.errors.BadInputError`.
"""

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from PIL import ExifTags, Image, ImageFile

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures.containers import check_exif, count_frames
from cl_ml_tools.pictures.containers.webp import with_true_flag
from cl_ml_tools.pictures.decoding import decoding
from cl_ml_tools.pictures.formats import FORMATS, PictureFormat
from cl_ml_tools.pictures.limits import picture_limits
from cl_ml_tools.pictures.modes import with_plain_alpha
from cl_ml_tools.pictures.notes import Notes
from cl_ml_tools.pictures.profiles import profile_of
from cl_ml_tools.pictures.rights import Rights, rights_of

T = TypeVar("T")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Of TIFF's tag NewSubfileType: a page that is a smaller version of another one, or a mask for it.
_NO_PAGE_OF_ITS_OWN = 0b101

_LARGEST_NUMBER = 1e30


@dataclass(frozen=True, slots=True)
class Frame:
    """The pixels of one frame or page, as they lie in the file.

    Attributes:
        image: the pixels; may be smaller than the file says where less was asked for.
        duration_ms: how long it is shown; None for a page, or a picture of its own.
        orientation: how it has to be turned, as in EXIF: 1 to 8.
        area: the part of ``image`` that is the picture; decoders of JPEG leave fractions of a pixel beside it.
    """

    image: Image.Image
    duration_ms: float | None = None
    orientation: int = 1
    area: tuple[float, float, float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        return self.image.size if self.orientation < 5 else self.image.size[::-1]

    def upright(self) -> Image.Image:
        """The pixels, turned as they have to be."""
        turn = _TURNS.get(self.orientation)
        return self.image if turn is None else self.image.transpose(turn)


class Picture:
    """A picture that is open: its header has been read, none of its pixels have.

    Attributes:
        path: the file.
        name: its name, for messages.
        format: the format that it is in, whatever its extension says.
        mode: Pillow's name for how its first frame is stored.
        size: width and height in pixels, upright.
        stored_orientation: how the file says that it has to be turned, as in EXIF: 1 to 8.
        orientation: how its frames have to be turned once they are decoded.
        frame_count: how many frames or pages it has.
        plays: how often an animation is shown, 0 for ever; None when it is none.
        rights: the author and the owner of the copyright.
        profile: its ICC profile when it is one for its colours, else nothing.
        notes: what of it will not be kept.
    """

    def __init__(self, file: ImageFile.ImageFile, path: Path, counted: int | None) -> None:
        self._file = file
        self.path = path
        self.name = path.name
        self.notes = Notes()
        is_mpo = file.format == "MPO"  # phones put a second picture into a JPEG
        self.format: PictureFormat = FORMATS["JPEG" if is_mpo else str(file.format)]
        self.mode = file.mode
        if is_mpo:
            self.notes.add("The file has more than one picture; the first was taken.")
        if _is_deep_colour(file):
            self.notes.add("16 bits a channel became 8.")
        claimed = 1 if is_mpo or not self.format.holds_frames else getattr(file, "n_frames", 1)
        self._canvas = file.size
        self._positions = self._find_frames(claimed if counted is None else counted)
        self.frame_count = len(self._positions)
        self.plays = self._read_plays() if self.format.is_animated and self.frame_count > 1 else None
        self.profile = profile_of(file)
        if self.format.name == "PNG" and "exif" not in file.info:
            # It may come behind the pixels, and Pillow would decode them to get there.
            file.load()
        self.stored_orientation = self.read_exif(_orientation_of) or 1
        # Pillow turns a TIFF itself.
        self.orientation = 1 if self.format.name == "TIFF" else self.stored_orientation
        self.size = self._canvas if self.orientation < 5 else self._canvas[::-1]
        self.rights = self.read_exif(lambda exif: rights_of(exif, file.info)) or Rights()

    @property
    def file(self) -> ImageFile.ImageFile:
        """The file as Pillow has opened it, for what else its header says. Not for decoding."""
        return self._file

    def first(self, at_least: tuple[int, int] | None = None) -> Frame:
        """Decode the first frame.

        Args:
            at_least: a width and height, upright, that is enough: a JPEG may come smaller than it is, with
                the same proportions, which is several times as fast.

        Raises:
            BadInputError: it is damaged.
        """
        with decoding(self.name):
            if self._file.tell():
                self._file.seek(0)
            area = None
            if at_least is not None and self.format.name == "JPEG":
                draft = self._file.draft(None, at_least if self.orientation < 5 else at_least[::-1])
                area = draft[1] if draft is not None else None
            self._file.load()
            self._check_numbers()
            return Frame(with_plain_alpha(self._file), None, self.orientation, area)

    def frames(self) -> Iterator[Frame]:
        """Decode all frames, one by one, each as it is seen when its turn has come.

        Raises:
            BadInputError: one is damaged.
        """
        if self.frame_count == 1:
            yield self.first()
            return
        for position in self._positions:
            with decoding(self.name):
                self._file.seek(position)
                self._file.load()
                self._check_numbers()
                duration = float(self._file.info.get("duration") or 0) if self.format.is_animated else None
                image = with_plain_alpha(self._file.copy())
                if self.format.is_animated and image.size != self._canvas:
                    image = image.crop((0, 0, *self._canvas))
            yield Frame(image, duration, self.orientation)

    def read_exif(self, read: Callable[[Image.Exif], T]) -> T | None:
        """What ``read`` finds in the EXIF data; None, and a note, when that is damaged."""
        try:
            check_exif(self._file.info.get("exif", b""), self.name, picture_limits())
            return read(self._file.getexif())
        except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
            self.notes.add("The EXIF data is damaged and was not used.")
            return None

    def _find_frames(self, count: int) -> list[int]:
        """The positions of the frames that count, after a look at how many pixels they have."""
        limits = picture_limits()
        if not self.format.is_paged or count == 1:
            limits.check(self.name, *self._canvas, count)
            # A PNG may have a picture beside its animation, for programs that do not know animations.
            skipped = 1 if self._file.info.get("default_image") and count > 1 else 0
            return list(range(skipped, count))
        positions, pixels = [], 0
        for position in range(count):
            self._file.seek(position)
            kind = getattr(self._file, "tag_v2", {}).get(254, 0)
            if not position or not (isinstance(kind, int) and kind & _NO_PAGE_OF_ITS_OWN):
                positions.append(position)
                pixels += self._file.width * self._file.height
                limits.check_sum(self.name, pixels, f"{position + 1} pages of {pixels} pixels")
        self._file.seek(0)
        return positions

    def _check_numbers(self) -> None:
        if self._file.mode != "F":
            return
        low, high = cast("tuple[float, float]", self._file.getextrema())
        # The extremes pass over what is no number; the mean does not.
        mean = cast("float", self._file.reduce(self._file.size).getpixel((0, 0)))
        # Near the end of their range, numbers are no longer ones once a picture is resized.
        if not (math.isfinite(mean) and max(-low, high) < _LARGEST_NUMBER):
            raise BadInputError(
                f"{self.name} has values that are no numbers, or are too large. Replace them, and send it again."
            )

    def _read_plays(self) -> int:
        loop = self._file.info.get("loop")
        if self.format.name == "GIF":
            # Nothing: once; a number: so many times more than once.
            return 1 if loop is None else loop + 1 if loop else 0
        return int(loop or 0)


@contextmanager
def open_picture(path: Path) -> Iterator[Picture]:
    """Read the header of a picture, and close the file behind what is done with it.

    Args:
        path: a file; its extension does not count.

    Raises:
        BadInputError: the file is no picture in a format that is read, is damaged, or is too large.
        OSError: the file cannot be read at all.
    """
    limits = picture_limits()
    if Image.MAX_IMAGE_PIXELS is not None and limits.pixels > Image.MAX_IMAGE_PIXELS:
        # Pillow's own limit is for the whole process. It is only raised, and only when ours was.
        Image.MAX_IMAGE_PIXELS = limits.pixels
    with path.open("rb") as file:
        with decoding(path.name):
            counted = count_frames(file, path.name, limits)
            image = Image.open(with_true_flag(file), formats=list(FORMATS))
            picture = Picture(image, path, counted)
        yield picture


def _orientation_of(exif: Image.Exif) -> int:
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _is_deep_colour(file: ImageFile.ImageFile) -> bool:
    """Whether the decoder will take the lower half of each channel away."""
    if file.mode not in ("RGB", "RGBA", "LA") or not file.tile:
        return False
    return ";16" in str(file.tile[0][3])
