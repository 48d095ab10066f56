"""The colours that a picture shows most of."""

from typing import Any

from PIL import Image

_SIDE = 128


def sample_size(size: tuple[int, int]) -> int:
    """The side of the box that a picture is shrunk into before its colours are counted."""
    return min(_SIDE, max(size))


def dominant_colours(image: Image.Image, count: int) -> list[dict[str, Any]]:
    """The most frequent colours, each with its share of what can be seen, the most frequent first.

    Args:
        image: small, in sRGB.
        count: how many at most.
    """
    rgba = image.convert("RGBA")
    seen = rgba.getchannel("A").point(lambda value: 255 if value >= 128 else 0)
    pixels = seen.histogram()[255]
    if not count or not pixels:
        return []
    # As one row of what is seen, so that hidden colours take no place in the palette.
    raw, mask = rgba.convert("RGB").tobytes(), seen.tobytes()
    row = b"".join(raw[at * 3 : at * 3 + 3] for at in range(len(mask)) if mask[at])
    indexed = Image.frombytes("RGB", (pixels, 1), row).quantize(count)
    palette = indexed.getpalette() or []
    shares = sorted(
        ((amount, index) for index, amount in enumerate(indexed.histogram()) if amount), reverse=True
    )
    return [
        {"colour": "#" + bytes(palette[index * 3 : index * 3 + 3]).hex(), "share": round(amount / pixels, 4)}
        for amount, index in shares
    ]
