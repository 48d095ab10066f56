"""What a picture shows and what it should show, worked out with numpy."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from picture_kinds import SWAPPED, Pixels, from_lab
from PIL import Image


def shown(path: Path) -> list[Pixels]:
    """What each frame of a file shows, its profile applied by hand."""
    frames = []
    with Image.open(path) as file:
        for number in range(getattr(file, "n_frames", 1)):
            file.seek(number)
            file.load()
            pixels = _pixels(file)
            if file.info.get("icc_profile") == SWAPPED:
                pixels = pixels[..., [1, 0, 2, 3]]
            frames.append(pixels)
    return frames


def _pixels(image: Image.Image) -> Pixels:
    if image.mode == "I;16":
        return _from_grey(np.asarray(image) / 65535)
    if image.mode == "F":
        return _from_grey(np.asarray(image, float))
    if image.mode == "CMYK":
        inks = 1 - np.asarray(image, float) / 255
        return _opaque(inks[..., :3] * inks[..., 3:])
    if image.mode == "LAB":
        data = np.asarray(image)
        return from_lab(np.dstack([data[..., :1] / 2.55, data[..., 1:].view(np.int8)]).astype(float))
    return np.asarray(image.convert("RGBA"), float) / 255


def _from_grey(values: NDArray[np.float64]) -> Pixels:
    return _opaque(np.repeat(values[..., None], 3, axis=-1))


def _opaque(rgb: NDArray[np.float64]) -> Pixels:
    return np.concatenate([rgb, np.ones_like(rgb[..., :1])], axis=-1)


def on(background: float, pixels: Pixels) -> NDArray[np.float64]:
    """The picture on a grey background, without transparency."""
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + background * (1 - alpha)


def distance(left: Pixels, right: Pixels) -> float:
    """How far two pictures are from each other on white and on black, in 256ths of the range, on the average."""
    if left.shape != right.shape:
        return 256.0
    return max(float(np.abs(on(ground, left) - on(ground, right)).mean()) * 256 for ground in (0.0, 1.0))


def moved(pixels: Pixels) -> list[Pixels]:
    """The picture a pixel to the left, right, up and down."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), "edge")
    return [padded[y : y + height, x : x + width] for y, x in ((1, 0), (1, 2), (0, 1), (2, 1))]


def all_or_nothing(pixels: Pixels) -> Pixels:
    """The picture with what is less than half opaque transparent, and all else opaque."""
    seen = pixels.copy()
    seen[..., 3] = pixels[..., 3] >= 0.5
    return seen


def resampled(pixels: Pixels, size: tuple[int, int], crop: tuple[float, float] = (1.0, 1.0)) -> Pixels:
    """The centred part of a picture at another size, by Lanczos's window of three lobes on each side.

    Args:
        pixels: the picture.
        size: width and height.
        crop: the part of its width and height that is kept.
    """
    premultiplied = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    across = _weights(pixels.shape[1], size[0], crop[0])
    down = _weights(pixels.shape[0], size[1], crop[1])
    out = np.clip(np.einsum("yh,hwc,xw->yxc", down, premultiplied, across, optimize=True), 0, 1)
    alpha = out[..., 3:]
    colours = np.divide(out[..., :3], alpha, out=np.zeros_like(out[..., :3]), where=alpha > 1e-6)
    return np.concatenate([np.clip(colours, 0, 1), alpha], axis=-1)


def _weights(old: int, new: int, kept: float) -> NDArray[np.float64]:
    scale = old * kept / new
    support = max(scale, 1.0)
    centres = old * (1 - kept) / 2 + (np.arange(new) + 0.5) * scale
    distances = (np.arange(old)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.where(np.abs(distances) < 3, np.sinc(distances) * np.sinc(distances / 3), 0.0)
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares
