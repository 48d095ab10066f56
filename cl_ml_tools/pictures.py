"""Opening, sizing and saving pictures with Pillow. Only task modules import it.

A picture from outside is never trusted: few formats are opened, the header's size is looked at before any
pixel is decoded, and whatever a decoder raises is `cl_ml_tools.errors.BadInputError`.
"""

import errno
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.picture_colours import held_by, profile_of, with_plain_alpha, with_steady_pixels

MAX_PIXELS = 50_000_000
"""A picture with more is neither opened nor made."""

READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened; EPS and others that can run or reach something are not."""

_QUALITY_FORMATS = {"JPEG", "WEBP"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was opened.

    Attributes:
        name: the file's name.
        format: the format that it is in, one of `READABLE_FORMATS`, whatever its extension says.
        image: its pixels, upright.
    """

    name: str
    format: str
    image: Image.Image


def path_pairs(params: BaseJobParams) -> list[tuple[Path, Path]]:
    """Pair the inputs of a job with its outputs; at least one pair.

    Raises:
        BadInputError: the job has no input, or no output for each.
    """
    if not params.input_paths or len(params.input_paths) != len(params.output_paths):
        raise BadInputError(
            f"The job has {len(params.input_paths)} inputs and {len(params.output_paths)} outputs. "
            f"Submit it with at least one input and one output path for each."
        )
    return list(zip(map(Path, params.input_paths), map(Path, params.output_paths), strict=True))


def open_picture(path: Path) -> Picture:
    """Decode the file's first picture and turn it as its EXIF orientation says.

    Raises:
        BadInputError: the file is no picture in a readable format, is damaged, or is too large.
        OSError: the file cannot be read at all.
    """
    try:
        with Image.open(path, formats=READABLE_FORMATS) as file:
            _check_pixels(path.name, *file.size)
            # Phones put a second picture into a JPEG; Pillow calls that MPO.
            picture_format = "JPEG" if file.format == "MPO" else str(file.format)
            image = ImageOps.exif_transpose(file)
        return Picture(path.name, picture_format, with_plain_alpha(image))
    except (BadInputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        # Pillow looks at the size before we can.
        raise BadInputError(f"{path.name} has too many pixels; the limit is {MAX_PIXELS} in all") from error
    except UnidentifiedImageError as error:
        # Pillow's message has the whole path, which is nothing for a client.
        raise BadInputError(
            f"{path.name} is no picture in a format that is read. Send {', '.join(READABLE_FORMATS)}."
        ) from error
    except Exception as error:
        # Decoders raise almost anything on damaged bytes.
        if _is_of_the_system(error):
            raise
        raise BadInputError(f"{path.name} cannot be decoded; is it damaged? {error}") from error


def resized(picture: Picture, width: int, height: int, *, fit: bool) -> Image.Image:
    """Give the picture's pixels another size.

    Args:
        picture: left as it is.
        width: pixels.
        height: pixels.
        fit: whether to keep the proportions and shrink it into width x height; a smaller one keeps its
            size. Else it gets exactly this size.

    Raises:
        BadInputError: the outcome would be too large.
    """
    image = picture.image
    if fit:
        scale = min(1.0, width / image.width, height / image.height)
        width = max(1, round(image.width * scale))
        height = max(1, round(image.height * scale))
    _check_pixels(f"{picture.name}, resized,", width, height)
    return with_steady_pixels(image).resize((width, height), Image.Resampling.LANCZOS)


def save_picture(image: Image.Image, path: Path, picture_format: str, *, quality: int = 85) -> None:
    """Write pixels in a format, whatever the path's extension; what it cannot hold is converted.

    An ICC profile is kept where the format has a place for it; else the colours are converted to sRGB.

    Args:
        image: the pixels.
        path: where to write.
        picture_format: one of `READABLE_FORMATS`.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        BadInputError: the format cannot hold the picture.
        OSError: the file cannot be written.
    """
    image = held_by(image, picture_format)
    options: dict[str, Any] = {"icc_profile": profile_of(image)}
    if picture_format in _QUALITY_FORMATS:
        options["quality"] = quality
    try:
        image.save(path, picture_format, **options)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        if _is_of_the_system(error):
            raise
        raise BadInputError(f"{path.name} cannot be written as {picture_format}: {error}") from error


def _is_of_the_system(error: Exception) -> bool:
    # Pillow's own OSErrors have no errno; a damaged offset makes it seek to where no file can be.
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EOVERFLOW)


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadInputError(f"{name} has {width} x {height} pixels; the limit is {MAX_PIXELS} in all")
