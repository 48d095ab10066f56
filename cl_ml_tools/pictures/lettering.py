"""Fonts for what is written on pictures."""

from functools import lru_cache

from PIL import ImageColor, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_BUILT_IN = ""
# The one that comes with Pillow has little more than ASCII. Pillow finds the others where the system keeps fonts.
_FONTS = (
    _BUILT_IN,
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
)


def font_for(text: str) -> str:
    """The name, for `font_at`, of the first font that has all letters of a text, or else the most of them."""
    return min((name for name in _FONTS if _is_there(name)), key=lambda name: len(missing_in(name, text)))


def missing_in(name: str, text: str) -> list[str]:
    """The letters of a text that a font has no picture of."""
    return sorted({letter for letter in text if not letter.isspace() and not _has_glyph(name, letter)})


@lru_cache(maxsize=64)
def font_at(name: str, size: float) -> Font:
    """A font at a size in pixels."""
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def ink_on(colour: str) -> str:
    """Black or white, whichever can be read on a colour (by its luma, ITU-R BT.601)."""
    red, green, blue, *_ = ImageColor.getrgb(colour)
    return "black" if 299 * red + 587 * green + 114 * blue > 128_000 else "white"


@lru_cache
def _is_there(name: str) -> bool:
    try:
        font_at(name, 24.0)
    except OSError:
        return False
    return True


@lru_cache(maxsize=4096)
def _has_glyph(name: str, letter: str) -> bool:
    font = font_at(name, 24.0)
    nothing, mask = font.getmask("\U0010ffff"), font.getmask(letter)
    return mask.size != nothing.size or bytes(mask) != bytes(nothing)
