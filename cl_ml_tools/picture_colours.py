"""From the colours that a picture has to those that a format of files can hold."""

import logging
from io import BytesIO
from typing import cast

from PIL import Image, ImageCms

logger = logging.getLogger(__name__)

# The modes that we write into each format. BMP could hold alpha, but hardly anybody reads it.
_HELD_MODES = {
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"},
    "JPEG": {"L", "RGB", "CMYK"},
    "WEBP": {"RGB", "RGBA"},
    "GIF": {"1", "L", "P", "RGB", "RGBA"},
    "BMP": {"1", "L", "RGB"},
    "TIFF": {"1", "L", "LA", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"},
    "PPM": {"1", "L", "RGB", "I", "F"},
}
_PROFILE_FORMATS = {"PNG", "JPEG", "WEBP", "TIFF"}

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


def with_plain_alpha(image: Image.Image) -> Image.Image:
    """The picture with its transparency in an alpha channel or one entry of its palette.

    Of what else the file said, only the ICC profile stays with it.
    """
    if image.mode == "PA" or isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    elif "transparency" in image.info and image.mode in ("1", "L"):
        image = image.convert("LA")
    elif "transparency" in image.info and image.mode == "RGB":
        image = image.convert("RGBA")
    kept = {"icc_profile"} | ({"transparency"} if image.mode == "P" else set())
    image.info = {key: value for key, value in image.info.items() if key in kept}
    return image


def with_steady_pixels(image: Image.Image) -> Image.Image:
    """The picture in a mode whose values can be averaged: no palette, no mere black and white."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "P":
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def held_by(image: Image.Image, picture_format: str) -> Image.Image:
    """The picture in a mode that the format can hold, with an ICC profile only if it can hold that too.

    Alpha goes onto white where there is no place for it, deep grey is scaled to 8 bits, other colours
    become RGB by their profile.

    Args:
        image: left as it is.
        picture_format: one of `cl_ml_tools.pictures.READABLE_FORMATS`.
    """
    held = _HELD_MODES[picture_format]
    if picture_format not in _PROFILE_FORMATS and profile_of(image):
        image = _srgb(with_steady_pixels(image))
    if image.mode in held:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey(image, deep="I;16" in held)
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = _srgb(with_steady_pixels(image))
    if image.mode in held:
        return image
    if image.mode in ("LA", "RGBA"):
        return image.convert("RGBA") if "RGBA" in held else _on_white(image)
    return image.convert("RGB")


def _grey(image: Image.Image, *, deep: bool) -> Image.Image:
    """Grey of 16 or 32 bits, or of fractions, as 16-bit grey where that is ``deep`` enough, else as 8-bit."""
    if image.mode == "F" or image.mode == "I":
        low, high = cast("tuple[float, float]", image.getextrema())
    else:
        low, high = 0.0, 65535.0
    sixteen_bits = image.mode != "F" and low >= 0 and high <= 65535
    if sixteen_bits and deep:
        return image.convert("I;16")
    # Fractions up to 1 and numbers of 8 or 16 bits keep their meaning; any other range is stretched.
    for end in (65535.0,) if image.mode != "F" else (1.0, 255.0, 65535.0):
        if low >= 0 and high <= end:
            low, high = 0.0, end
            break
    scale = 255 / (high - low) if high > low else 0.0
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L")


def _on_white(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode == "LA" else "RGB"
    canvas = Image.new(mode, image.size, "white")
    canvas.paste(image.convert(mode), mask=image.getchannel("A"))
    canvas.info["icc_profile"] = profile_of(image)
    return canvas


def _srgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB, or grey if it is: by its profile when that is usable, else by rule of thumb."""
    mode = image.mode if image.mode in ("L", "LA", "RGBA") else "RGB"
    converted = None
    if image.mode in ("RGB", "RGBA", "CMYK", "LAB"):
        converted = _by_profile(image, mode)
    if converted is None:
        converted = image.convert(mode)
    converted.info.pop("icc_profile", None)
    return converted


def _by_profile(image: Image.Image, mode: str) -> Image.Image | None:
    """The picture in sRGB by its profile; None when it has none that can be used."""
    profile = profile_of(image)
    if not profile and image.mode != "LAB":
        return None
    try:
        source = ImageCms.getOpenProfile(BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except ImageCms.PyCMSError as error:
        logger.warning("An ICC profile cannot be used (%s); the colours are converted without it", error)
        return None
