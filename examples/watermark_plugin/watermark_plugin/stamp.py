"""Text onto pixels."""

from PIL import Image, ImageChops, ImageDraw, ImageFont

from watermark_plugin.schema import Position

# White and black as each mode counts. In its own mode a picture keeps its alpha, its inks and its profile.
_COLOURS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "L": ((255,), (0,)),
    "LA": ((255, 255), (0, 255)),
    "RGB": ((255, 255, 255), (0, 0, 0)),
    "RGBA": ((255, 255, 255, 255), (0, 0, 0, 255)),
    "CMYK": ((0, 0, 0, 0), (0, 0, 0, 255)),
}
_SMALLEST_TEXT = 6


def stamped(image: Image.Image, text: str, position: Position, opacity: float) -> Image.Image:
    """The picture with the text in it: white with a black edge, so that it shows on any ground.

    Args:
        image: left as it is.
        text: made smaller until it fits, and cut at the edge if that is not enough.
        position: where.
        opacity: above 0, to 1.
    """
    image = _paintable(image)
    white, black = _COLOURS[image.mode]
    margin = max(1, min(image.size) // 40)
    size = max(_SMALLEST_TEXT, min(image.size) // 12)
    left, top, right, bottom = _box(text, size)
    room = image.width - 2 * margin
    # In proportion first; sizes are whole numbers, so a little may be left to do.
    size = max(_SMALLEST_TEXT, min(size, size * room // (right - left)))
    left, top, right, bottom = _box(text, size)
    while right - left > room and size > _SMALLEST_TEXT:
        size -= 1
        left, top, right, bottom = _box(text, size)
    x = {"left": margin, "right": image.width - margin - (right - left)}
    y = {"top": margin, "bottom": image.height - margin - (bottom - top)}
    vertical, _, horizontal = position.partition("-")
    at = (
        x.get(horizontal, (image.width - (right - left)) // 2) - left,
        y.get(vertical, (image.height - (bottom - top)) // 2) - top,
    )
    font, strength = ImageFont.load_default(size), round(255 * opacity)
    inside, whole = Image.new("L", image.size), Image.new("L", image.size)
    ImageDraw.Draw(inside).text(at, text, font=font, fill=strength)
    ImageDraw.Draw(whole).text(at, text, font=font, fill=strength, stroke_width=_edge(size))
    for colour, mask in ((black, ImageChops.subtract(whole, inside)), (white, inside)):
        image.paste(colour if len(colour) > 1 else colour[0], (0, 0, *image.size), mask)
    return image


def _paintable(image: Image.Image) -> Image.Image:
    if image.mode in _COLOURS:
        return image.copy()
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("1", "I", "F"):
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _edge(size: int) -> int:
    return max(1, size // 16)


def _box(text: str, size: int) -> tuple[int, int, int, int]:
    font = ImageFont.load_default(size)
    box = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font, stroke_width=_edge(size))
    return int(box[0]), int(box[1]), int(box[2]), int(box[3])
