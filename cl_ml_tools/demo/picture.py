"""The picture that the demo draws when none is given."""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

_SIZE = (1600, 1200)
_HORIZON = 820


def draw_picture(path: Path) -> None:
    """Write a JPEG of 1600 x 1200 pixels: mountains before an evening sky, and what this is."""
    slope = Image.linear_gradient("L").resize((_SIZE[0], _HORIZON))
    image = Image.new("RGB", _SIZE)
    image.paste(ImageOps.colorize(slope, "#141a45", "#ffcf8a", mid="#c2567a"))
    _draw_sun(image, (1130, 560), radius=105)
    # From far to near: each range is darker, steeper and lower.
    for number, colour in enumerate(("#8d4a78", "#63386b", "#3d2757", "#1f183c")):
        _draw_range(
            image, base=640 + 60 * number, steepness=60 + 28 * number, seed=number * 1.7, colour=colour
        )
    _mirror_in_water(image)
    draw = ImageDraw.Draw(image)
    draw.text((80, 70), "cl_ml_tools", font=ImageFont.load_default(size=120), fill="#fff4e0")
    draw.text(
        (86, 210),
        "uploaded, queued, and done by a Celery worker",
        font=ImageFont.load_default(size=46),
        fill="#ffd9b0",
    )
    image.save(path, "JPEG", quality=92)


def _draw_sun(image: Image.Image, centre: tuple[int, int], *, radius: int) -> None:
    glow = Image.new("L", image.size)
    draw = ImageDraw.Draw(glow)
    draw.circle(centre, radius * 2.2, fill=110)
    glow = glow.filter(ImageFilter.GaussianBlur(radius))
    ImageDraw.Draw(glow).circle(centre, radius, fill=255)
    image.paste("#ffe9b8", mask=glow.filter(ImageFilter.GaussianBlur(1.5)))


def _draw_range(image: Image.Image, *, base: float, steepness: float, seed: float, colour: str) -> None:
    def ridge(x: float) -> float:
        waves = ((1.0, 210.0), (0.55, 97.0), (0.28, 41.0), (0.12, 17.0), (0.06, 7.0))
        return base - sum(
            share * steepness * math.sin(x / length + seed * 3 / share) for share, length in waves
        )

    outline = [(float(x), ridge(x)) for x in range(0, image.width + 1, 2)]
    ImageDraw.Draw(image).polygon(
        [(0.0, _HORIZON + 0.0), *outline, (image.width + 0.0, _HORIZON + 0.0)], fill=colour
    )


def _mirror_in_water(image: Image.Image) -> None:
    depth = image.height - _HORIZON
    mirrored = ImageOps.flip(image.crop((0, _HORIZON - depth, image.width, _HORIZON)))
    water = Image.blend(
        mirrored.filter(ImageFilter.GaussianBlur(3)), Image.new("RGB", mirrored.size, "#141a45"), 0.35
    )
    # Ripples: each line is moved sideways, the more the nearer it is.
    for y in range(depth):
        line = water.crop((0, y, image.width, y + 1))
        shift = round(math.sin(y * 0.55 + math.sin(y * 0.13) * 3) * (1 + y / 22))
        image.paste(line, (shift, _HORIZON + y))
        image.paste(
            line.crop((0, 0, abs(shift) + 1, 1)),
            (0 if shift > 0 else image.width - abs(shift) - 1, _HORIZON + y),
        )
