"""Perceptual hashes: pictures that look alike have hashes that differ in few bits.

The definitions are those of the imagehash package, so that hashes can be compared with ones that it has made;
the tests compare them. Here they need Pillow only.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import median

from PIL import Image

# phash looks at a picture that is so much larger than the part of its frequencies that counts.
_PHASH_FACTOR = 4

# Where a coefficient is 0 by the mathematics, arithmetic leaves 1e-12: no bit shall hang on that.
_DIGITS = 6


def average_hash(grey: Image.Image, size: int) -> str:
    """Which of size x size parts are lighter than their mean."""
    values = _values(_shrunk(grey, size, size))
    mean = sum(values) / len(values)
    return _as_hex([value > mean for value in values])


def difference_hash(grey: Image.Image, size: int) -> str:
    """Which of size x size parts are darker than their neighbour at the right."""
    values = _values(_shrunk(grey, size + 1, size))
    rows = [values[at : at + size + 1] for at in range(0, len(values), size + 1)]
    return _as_hex([row[at + 1] > row[at] for row in rows for at in range(size)])


def perceptual_hash(grey: Image.Image, size: int) -> str:
    """Which of the size x size lowest frequencies are stronger than their median."""
    side = size * _PHASH_FACTOR
    values = _values(_shrunk(grey, side, side))
    waves = _cosines(side, size)
    rows = [[_dot(values[at : at + side], wave) for wave in waves] for at in range(0, len(values), side)]
    columns = list(zip(*rows, strict=True))
    frequencies = [round(_dot(column, wave), _DIGITS) for wave in waves for column in columns]
    middle = median(frequencies)
    return _as_hex([value > middle for value in frequencies])


def wavelet_hash(grey: Image.Image, size: int) -> str:
    """Which of size x size parts are lighter than their median, at a side that is a power of two.

    That is what the lowest band of a Haar wavelet is, whose mean does not count.
    """
    side = max(size, 2 ** int(math.log2(min(grey.size))))
    parts = _shrunk(grey, side, side).convert("F").reduce(side // size)
    values = [float(value) for value in _pixels(parts)]
    middle = median(values)
    return _as_hex([value > middle for value in values])


HASHES: dict[str, Callable[[Image.Image, int], str]] = {
    "ahash": average_hash,
    "dhash": difference_hash,
    "phash": perceptual_hash,
    "whash": wavelet_hash,
}
"""By name: takes a grey picture and the square root of the bits, returns hexadecimal digits."""


def _shrunk(grey: Image.Image, width: int, height: int) -> Image.Image:
    return grey.resize((width, height), Image.Resampling.LANCZOS)


def _values(grey: Image.Image) -> list[int]:
    return list(grey.tobytes())


def _pixels(image: Image.Image) -> Sequence[float]:
    return memoryview(image.tobytes()).cast("f").tolist()


@lru_cache(maxsize=8)
def _cosines(side: int, count: int) -> list[list[float]]:
    """The first cosine waves of a transform of the second kind, without a scale."""
    return [
        [2 * math.cos(math.pi * wave * (2 * at + 1) / (2 * side)) for at in range(side)]
        for wave in range(count)
    ]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(map(float.__mul__, map(float, left), right))


def _as_hex(bits: Sequence[bool]) -> str:
    number = int("".join("1" if bit else "0" for bit in bits), 2)
    return f"{number:0{math.ceil(len(bits) / 4)}x}"
