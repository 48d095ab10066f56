"""Whose picture it is: what is kept of the metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

_LONGEST = 2000


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
    """What a file says of its author and its copyright, in EXIF or in the text of a PNG."""
    return Rights(
        _text(exif.get(ExifTags.Base.Artist)) or _text(info.get("Author")),
        _text(exif.get(ExifTags.Base.Copyright)) or _text(info.get("Copyright")),
    )


def _text(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    return text.replace("\0", " ").strip()[:_LONGEST]


def _as_read(text: str) -> bytes:
    # EXIF is ASCII by its rules and anything in practice. Pillow reads it as Latin-1, so this gives back the
    # bytes that were in the file; Pillow itself would write question marks.
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
