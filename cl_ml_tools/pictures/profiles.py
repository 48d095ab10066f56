"""ICC profiles: which colours the numbers of a picture mean."""

import logging
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms

logger = logging.getLogger(__name__)

# Bytes 16 to 20 of an ICC profile name the colours that it is for.
_PROFILE_COLOURS = {
    "1": b"GRAY",
    "L": b"GRAY",
    "LA": b"GRAY",
    "I;16": b"GRAY",
    "P": b"RGB ",
    "RGB": b"RGB ",
    "RGBA": b"RGB ",
    "CMYK": b"CMYK",
    "LAB": b"Lab ",
}


def profile_of(image: Image.Image) -> bytes:
    """The picture's ICC profile if it is one for the colours that the picture has, else nothing."""
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile[16:20] == _PROFILE_COLOURS.get(image.mode):
        return profile
    return b""


def profile_name(profile: bytes) -> str | None:
    """What the profile calls itself; None when it does not say, or is damaged."""
    try:
        name = ImageCms.getProfileDescription(ImageCms.getOpenProfile(BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return name.strip("\0 \n") or None


def in_srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB, or grey if it is: by its profile when that is usable, else by rule of thumb.

    Args:
        image: without palette; left as it is.
    """
    mode = image.mode if image.mode in ("L", "LA", "RGBA") else "RGB"
    converted = _by_profile(image, mode)
    if converted is None:
        converted = image.convert(mode)
        if converted is image:
            converted = image.copy()
    converted.info = {key: value for key, value in converted.info.items() if key != "icc_profile"}
    return converted


def _by_profile(image: Image.Image, mode: str) -> Image.Image | None:
    """The picture in sRGB by its profile; None when it has none that can be used."""
    profile = profile_of(image)
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB") or not (profile or image.mode == "LAB"):
        return None
    try:
        source = ImageCms.getOpenProfile(BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        if mode in ("L", "LA"):
            return _grey_by_profile(image, source)
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError) as error:
        logger.warning("An ICC profile cannot be used (%s); the colours are converted without it", error)
        return None


def _grey_by_profile(image: Image.Image, source: Any) -> Image.Image | None:
    # There is no grey sRGB: all three channels come out alike, and one is taken.
    grey = image.getchannel("L") if image.mode == "LA" else image
    colour = ImageCms.profileToProfile(grey, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if colour is None:
        return None
    converted = colour.getchannel("G")
    if image.mode == "LA":
        converted = Image.merge("LA", (converted, image.getchannel("A")))
    return converted
