"""Writing pictures."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures.animations import alike, as_gif_frame, durations_for
from cl_ml_tools.pictures.containers.webp import mark_see_through
from cl_ml_tools.pictures.decoding import encoding
from cl_ml_tools.pictures.formats import PictureFormat
from cl_ml_tools.pictures.limits import picture_limits
from cl_ml_tools.pictures.modes import flattened, held_by
from cl_ml_tools.pictures.notes import Notes
from cl_ml_tools.pictures.opening import Frame
from cl_ml_tools.pictures.profiles import profile_of
from cl_ml_tools.pictures.rights import Rights

# A copy costs as much time as decoding half of a JPEG.
_TAKE_PIXELS_ONLY = ("JPEG", "PNG", "WEBP", "BMP", "PPM")

# Of WebP's efforts from 0 to 6, the default 4 takes twice the time; this gives files that are 2 to 4 % larger, and
# 0.2 to 0.5 dB farther from the original. The default of PNG takes twice the time of 4, for photographs that are
# 0.4 to 3 % smaller.
_WEBP_EFFORT = 2
_PNG_EFFORT_FOR_PHOTOGRAPHS = 4


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a picture is written.

    Attributes:
        format: the format of the file.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        lossless: whether a WebP loses nothing; quality is then how hard it tries to be small.
        progressive: whether a JPEG shows a coarse version first while it is loaded.
        background: the colour that is put under all transparency; None puts white where there must be one.
        is_photograph: whether the source is one: a PNG of it, which gains little by more effort, is made with less.
    """

    format: PictureFormat
    quality: int = 85
    lossless: bool = False
    progressive: bool = False
    background: str | None = None
    is_photograph: bool = False

    @property
    def loses(self) -> bool:
        """Whether what is read again is not what was written."""
        return self.format.name in ("JPEG", "AVIF") or (self.format.name == "WEBP" and not self.lossless)


def save_frames(
    frames: Iterable[Frame],
    path: Path,
    how: Encoding,
    *,
    plays: int | None = None,
    rights: Rights | None = None,
    notes: Notes,
) -> None:
    """Write frames to a file, turned upright; what the format cannot hold is converted.

    An ICC profile is kept where the format has a place for it; else the colours are converted to sRGB.

    Args:
        frames: one, or as many as the format holds. A generator of them saves memory.
        path: where to write; its extension does not count.
        how: the format and its options.
        plays: how often an animation is shown, 0 for ever; None is for ever too.
        rights: the author and the owner of the copyright.
        notes: takes what is given up.

    Raises:
        BadInputError: the format cannot hold the picture.
        OSError: the file cannot be written.
    """
    target = how.format
    if not target.is_writable:
        raise BadInputError(
            f"{path.name} cannot be written: the Pillow of this worker has no {target.name}. Ask for WEBP."
        )
    images: list[Image.Image] = []
    shown: list[float | None] = []
    for frame in frames:
        images.append(_prepared(frame, how, notes))
        shown.append(frame.duration_ms)
    profile = profile_of(images[0])
    options = _options(how)
    if len(images) > 1:
        if target.is_animated:
            images = alike(images)
        width, height = max(image.width for image in images), max(image.height for image in images)
        picture_limits().check(path.name, width, height, len(images))
        durations = durations_for(target, shown, notes)
        options |= _animation_options(target, durations, 0 if plays is None else plays, notes)
    if target.name == "GIF":
        images = [as_gif_frame(image, notes) for image in images]
        if len(images) > 1 and any("transparency" in image.info for image in images):
            # Without the second, a frame of which nothing is transparent would not say which colour is: decoders
            # that go by the specification then leave it where the next one is free.
            options |= {"disposal": 2, "optimize": False}
    if target.has_profile:
        options["icc_profile"] = profile
    options |= _rights_options(target, rights or Rights(), notes)
    with encoding(path.name, target.name):
        images[0].save(path, target.name, append_images=images[1:], **options)
    if target.name == "WEBP" and len(images) > 1 and images[0].mode == "RGBA":
        mark_see_through(path)


def save_picture(
    image: Image.Image,
    path: Path,
    how: Encoding,
    *,
    rights: Rights | None = None,
    notes: Notes | None = None,
) -> None:
    """Write one upright image, as `save_frames` does.

    Raises:
        BadInputError: the format cannot hold the picture.
        OSError: the file cannot be written.
    """
    save_frames([Frame(image)], path, how, rights=rights, notes=Notes() if notes is None else notes)


def _prepared(frame: Frame, how: Encoding, notes: Notes) -> Image.Image:
    image = frame.upright()
    if isinstance(image, ImageFile.ImageFile) and how.format.name not in _TAKE_PIXELS_ONLY:
        # The encoder would take more from the open file than its pixels: a TIFF's tags, an animation's frames.
        image = image.copy()
    if how.background is not None:
        image = flattened(image, how.background)
    return held_by(image, how.format, notes, how.background or "white")


def _options(how: Encoding) -> dict[str, Any]:
    match how.format.name:
        case "JPEG":
            return {"quality": how.quality, "progressive": how.progressive}
        case "WEBP":
            effort = {} if how.lossless else {"method": _WEBP_EFFORT}
            return {"quality": how.quality, "lossless": how.lossless, **effort}
        case "AVIF":
            return {"quality": how.quality}
        case "PNG" if how.is_photograph:
            return {"compress_level": _PNG_EFFORT_FOR_PHOTOGRAPHS}
        case "TIFF":
            return {"compression": "tiff_lzw"}
        case _:
            return {}


def _animation_options(
    target: PictureFormat, durations: list[int] | list[float] | None, plays: int, notes: Notes
) -> dict[str, Any]:
    options: dict[str, Any] = {"save_all": True}
    if durations is not None:
        options["duration"] = durations
    if target.name == "GIF":
        # It counts how often the animation is shown again; without a count it is shown once.
        if plays != 1:
            options["loop"] = max(0, plays - 1)
    elif target.name in ("WEBP", "PNG"):
        options["loop"] = plays
    elif target.name == "AVIF" and plays:
        notes.add("The animation now repeats for ever: AVIF is written so.")
    return options


def _rights_options(target: PictureFormat, rights: Rights, notes: Notes) -> dict[str, Any]:
    if not rights:
        return {}
    if not target.has_rights:
        notes.add(
            f"The names of the author and the owner of the copyright are lost: {target.name} has no place."
        )
        return {}
    if target.name == "GIF":
        return {"comment": rights.comment()}
    return {"exif": rights.exif()}
