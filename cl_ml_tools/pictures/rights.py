"""Whose picture it is: what is kept of the metadata."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

_LONGEST = 2000
_LONGEST_XMP = 1_000_000

_IPTC = 0x0404
"""The number of IPTC's data among those of Photoshop."""

_IPTC_TAG = 33723

_BY_LINE, _COPYRIGHT_NOTICE = 80, 116


@dataclass(frozen=True, slots=True)
class Rights:
    """The author and the owner of the copyright; nothing where the file does not say."""

    artist: str = ""
    copyright: str = ""

    def __bool__(self) -> bool:
        return bool(self.artist or self.copyright)

    def exif(self) -> Image.Exif:
        """EXIF data that says this and nothing else."""
        exif = Image.Exif()
        for tag, text in ((ExifTags.Base.Artist, self.artist), (ExifTags.Base.Copyright, self.copyright)):
            if text:
                exif[tag] = _as_read(text)
        return exif

    def comment(self) -> str:
        """The same in one line of text."""
        owner = f"Copyright: {self.copyright}" if self.copyright else ""
        return "; ".join(part for part in (f"Artist: {self.artist}" if self.artist else "", owner) if part)


def rights_of(exif: Image.Exif, info: Mapping[Any, Any]) -> Rights:
    """What a file says of its author and its copyright: in EXIF, in the text of a PNG, as IPTC, or in XMP."""
    iptc, xmp = _iptc(exif, info), _xmp(info)

    def first(tag: int, key: str, dataset: int, element: str) -> str:
        for value in (exif.get(tag), info.get(key), iptc.get(dataset), _in_xmp(xmp, element)):
            if text := _text(value):
                return text
        return ""

    return Rights(
        first(ExifTags.Base.Artist, "Author", _BY_LINE, "creator"),
        first(ExifTags.Base.Copyright, "Copyright", _COPYRIGHT_NOTICE, "rights"),
    )


def _iptc(exif: Image.Exif, info: Mapping[Any, Any]) -> dict[int, str]:
    """The texts of record 2 of IPTC's information interchange model.

    A JPEG keeps it among Photoshop's data, a TIFF as a tag.
    """
    resources = info.get("photoshop")
    data = resources.get(_IPTC) if isinstance(resources, dict) else exif.get(_IPTC_TAG)
    texts: dict[int, str] = {}
    at = 0
    while isinstance(data, bytes) and data[at : at + 2] == b"\x1c\x02" and at + 5 <= len(data):
        dataset, size = data[at + 2], int.from_bytes(data[at + 3 : at + 5], "big")
        texts.setdefault(dataset, _decoded(data[at + 5 : at + 5 + size]))
        at += 5 + size
    return texts


def _xmp(info: Mapping[Any, Any]) -> str:
    xmp = info.get("xmp") or b""
    return _decoded(xmp[:_LONGEST_XMP]) if isinstance(xmp, bytes) else str(xmp)[:_LONGEST_XMP]


def _in_xmp(xmp: str, element: str) -> str:
    """The first text of an element of the Dublin Core. A parser of XML would follow what a stranger wrote."""
    found = re.search(rf"<dc:{element}>\s*<rdf:(?:Alt|Seq|Bag)>\s*<rdf:li[^<>]*>([^<>]*)<", xmp)
    return html.unescape(found[1]) if found else ""


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _text(value: object) -> str:
    if not isinstance(value, str | bytes):
        return ""
    value = value[:_LONGEST]
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.replace("\0", " ").strip()


def _as_read(text: str) -> bytes:
    # EXIF is ASCII by its rules and anything in practice. Pillow reads it as Latin-1, so this gives back the
    # bytes that were in the file; Pillow itself would write question marks.
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
