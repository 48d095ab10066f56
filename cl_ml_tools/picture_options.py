"""What picture tasks are asked for, as types of schema fields. Loads no Pillow."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

MAX_SIDE = 65535
"""Pixels in a row that may be asked for. Hardly a format holds more."""

# The sixteen of HTML 4; all others have numbers.
_COLOURS = {
    *("aqua", "black", "blue", "fuchsia", "gray", "green", "lime", "maroon"),
    *("navy", "olive", "purple", "red", "silver", "teal", "white", "yellow"),
}
_EXTENSIONS = {"jpeg": "jpg"}
_PILLOW_NAMES = {"jpg": "JPEG", "jpeg": "JPEG"}


def _lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _checked_colour(value: str) -> str:
    if value not in _COLOURS and not re.fullmatch(r"#([0-9a-f]{3}|[0-9a-f]{6})", value):
        raise ValueError(f"give a colour as #rrggbb or #rgb, or one of {', '.join(sorted(_COLOURS))}")
    return value


def _split(value: Any) -> Any:
    if isinstance(value, str | int):
        value = [value]
    if isinstance(value, list):
        return [part for entry in value for part in (entry.split(",") if isinstance(entry, str) else [entry])]
    return value


CommaSeparated = BeforeValidator(_split)
"""Lets a form send a list as ``a,b`` as well as by repeating the field."""

OutputFormat = Annotated[
    Literal["png", "jpg", "jpeg", "webp", "gif", "bmp", "tiff", "avif"], BeforeValidator(_lower_case)
]
"""The name of a format that is written, in upper or lower case."""

FitMode = Annotated[Literal["fit", "fill", "exact"], BeforeValidator(_lower_case)]
"""What becomes of the proportions."""

Colour = Annotated[str, BeforeValidator(_lower_case), AfterValidator(_checked_colour)]
"""A colour as HTML writes it."""

Background = Annotated[
    Colour | None,
    Field(
        description="Colour under all transparency, as #rrggbb or a name of HTML. Left out: transparency stays "
        "where the format has it, and is put on white elsewhere."
    ),
]
"""The colour under transparency."""

Quality = Annotated[
    int, Field(ge=1, le=100, description="1 to 100, for JPEG, WebP and AVIF; above 95 is waste.")
]
"""How much a lossy format keeps."""

Lossless = Annotated[bool, Field(description="Write WebP without any loss.")]
"""Whether WebP loses nothing."""

Progressive = Annotated[bool, Field(description="Write JPEG so that it shows while it is being loaded.")]
"""Whether JPEG is progressive."""

Strict = Annotated[
    bool,
    Field(description="One file that cannot be processed ends the job in error; else the others are done."),
]
"""Whether one bad file is the end of the job."""


def extension_of(name: str) -> str:
    """The extension of files in a format of `OutputFormat`, without the dot."""
    return _EXTENSIONS.get(name, name)


def pillow_name(name: str) -> str:
    """The key of a format of `OutputFormat` in `cl_ml_tools.pictures.FORMATS`."""
    return _PILLOW_NAMES.get(name, name.upper())
