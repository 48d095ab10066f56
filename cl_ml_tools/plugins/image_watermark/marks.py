"""The marks that are put on pictures, and how they are put there."""

import unicodedata

from PIL import Image, ImageChops, ImageDraw

from cl_ml_tools import pictures
from cl_ml_tools.errors import BadInputError

_SMALLEST_LETTERS, _LARGEST_LETTERS = 8.0, 2000.0
_TRIAL_SIZE = 100.0

# A mark of one pixel would be put on a large picture millions of times.
_MOST_TILES_IN_A_ROW = 100

Box = tuple[int, int, int, int]


def text_mark(text: str, room: tuple[int, int], colour: str) -> Image.Image:
    """The text as an RGBA picture of about this width or this height, with an outline that stands out.

    Very small and very large letters are left to be scaled.

    Raises:
        BadInputError: the font has no picture of a letter.
    """
    text = unicodedata.normalize("NFC", text)
    font = pictures.font_for(text)
    if missing := pictures.missing_in(font, text):
        raise BadInputError(
            f"The font has no {', '.join(map(_named, missing[:10]))}. Leave it out, send the mark as a picture, "
            f"or have DejaVu Sans or Noto Sans installed where the workers run."
        )
    left, top, right, bottom = _extent(text, font, _TRIAL_SIZE)
    fitting = _TRIAL_SIZE * min(room[0] / (right - left), room[1] / (bottom - top))
    size = min(_LARGEST_LETTERS, max(_SMALLEST_LETTERS, fitting))
    outline = _outline_width(size)
    left, top, right, bottom = _extent(text, font, size)
    image = Image.new("RGBA", (right - left, bottom - top), pictures.ink_on(colour))
    drawn, filled = Image.new("L", image.size), Image.new("L", image.size)
    for mask, stroke in ((drawn, outline), (filled, 0)):
        ImageDraw.Draw(mask).multiline_text(
            (-left, -top),
            text,
            fill=255,
            font=pictures.font_at(font, size),
            stroke_width=stroke,
            align="center",
        )
    image.paste(colour, mask=filled)
    image.putalpha(drawn)
    return image


def put_on(image: Image.Image, mark: Image.Image, position: str, opacity: float, margin: int) -> Image.Image:
    """The picture with the mark on it.

    Args:
        image: L, LA, RGB or RGBA; is drawn on.
        mark: RGBA, no larger than the picture.
        position: a corner, an edge, ``center`` or ``tile``.
        opacity: 0 to 1.
        margin: pixels between the mark and the edges.
    """
    faint = mark.getchannel("A").point(lambda value: value * opacity + 0.5)
    if image.mode in ("L", "LA") and not _is_grey(mark):
        image = image.convert("RGB" if image.mode == "L" else "RGBA")
    plain = mark.convert(image.mode) if image.mode in ("L", "RGB") else None
    for left, top in _places(image.size, mark.size, position, margin):
        if plain is not None:
            image.paste(plain, (left, top), faint)
        else:
            _blend(image, mark, faint, (left, top, left + mark.width, top + mark.height))
    return image


def _blend(image: Image.Image, mark: Image.Image, alpha: Image.Image, box: Box) -> None:
    mark = mark.copy()
    mark.putalpha(alpha)
    below = image.crop(box)
    image.paste(Image.alpha_composite(below.convert("RGBA"), mark).convert(image.mode), box)


def _places(
    size: tuple[int, int], mark: tuple[int, int], position: str, margin: int
) -> list[tuple[int, int]]:
    if position == "tile":
        step_x = max(mark[0] + max(1, mark[0] // 2), size[0] // _MOST_TILES_IN_A_ROW)
        step_y = max(mark[1] * 3, size[1] // _MOST_TILES_IN_A_ROW)
        return [
            (x + (row % 2) * (step_x // 2), y)
            for row, y in enumerate(range(mark[1] // 2, size[1], step_y))
            for x in range(-step_x, size[0], step_x)
        ]
    free_x, free_y = size[0] - mark[0], size[1] - mark[1]
    margin_x, margin_y = min(margin, free_x // 2), min(margin, free_y // 2)
    x = margin_x if "left" in position else free_x - margin_x if "right" in position else free_x // 2
    y = margin_y if "top" in position else free_y - margin_y if "bottom" in position else free_y // 2
    return [(x, y)]


def _named(letter: str) -> str:
    return letter if letter.isprintable() and not unicodedata.combining(letter) else f"U+{ord(letter):04X}"


def _outline_width(size: float) -> int:
    return max(1, round(size / 25))


def _extent(text: str, font: str, size: float) -> Box:
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = draw.multiline_textbbox(
        (0, 0), text, font=pictures.font_at(font, size), stroke_width=_outline_width(size), align="center"
    )
    return int(left) - 1, int(top) - 1, int(right) + 2, int(bottom) + 2


def _is_grey(mark: Image.Image) -> bool:
    red, green, blue, alpha = mark.split()
    seen = alpha.point(lambda value: 255 if value else 0)
    differs = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(red, blue))
    return ImageChops.multiply(differs, seen).getbbox() is None
