"""EXIF as JSON."""

import math
from typing import Any

from PIL import ExifTags, Image

_LONGEST = 1000
_MOST = 64
_MOST_TAGS = 500
_KNOWN_PARTS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop, ExifTags.IFD.MakerNote)


def exif_as_json(exif: Image.Exif, *, gps: bool) -> dict[str, Any]:
    """The tags by their names, without the place unless ``gps`` is asked for; what is binary by its size.

    Values that are damaged are left out, and so is what comes behind 500 tags in one part: cameras write some 50.
    """
    told = _tags(exif, ExifTags.TAGS)
    told |= _tags(exif.get_ifd(ExifTags.IFD.Exif), ExifTags.TAGS)
    if gps and (place := _tags(exif.get_ifd(ExifTags.IFD.GPSInfo), ExifTags.GPSTAGS)):
        told["GPS"] = place
    return told


def _tags(part: Any, names: dict[int, str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for tag in list(part):
        if tag in _KNOWN_PARTS:
            continue
        if len(told) == _MOST_TAGS:
            break
        try:
            value = _plain(part[tag])
        except (ArithmeticError, ValueError, TypeError, LookupError, SyntaxError):
            continue
        if value is not None:
            told[names.get(tag, f"0x{tag:04x}")] = value
    return told


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; None when there is nothing to tell."""
    if isinstance(value, bytes):
        text = value.rstrip(b"\0")
        if text.isascii() and text.decode("ascii").isprintable():
            return text.decode("ascii")[:_LONGEST] or None
        return {"bytes": len(value)}
    if isinstance(value, str):
        return value.replace("\0", " ").strip()[:_LONGEST] or None
    if isinstance(value, bool | int):
        return value
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value[:_MOST]]
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in list(value.items())[:_MOST]}
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
