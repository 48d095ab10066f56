"""The kinds of pictures that people send, each with what is to be seen in it, worked out with numpy alone."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.float64]
"""Height x width x 4, red, green, blue and alpha from 0 to 1, in sRGB."""

WIDTH, HEIGHT = 60, 40
DURATIONS = (100, 250, 400)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_primaries() -> bytes:
    """A profile in which red and green have changed places: its use can be seen, and worked out by hand."""
    names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    (count,) = struct.unpack_from(">I", SRGB, 128)
    profile = bytearray(SRGB)
    for at in range(132, 132 + 12 * count, 12):
        tag = bytes(profile[at : at + 4])
        profile[at : at + 4] = names.get(tag, tag)
    return bytes(profile)


SWAPPED = swapped_primaries()


def scene(number: int = 0) -> Pixels:
    """A picture without symmetry: colours that run in both directions, and a lighter spot that moves."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    spot = np.exp(-(((x - 15 - 12 * number) / 9) ** 2 + ((y - 12) / 7) ** 2))
    red = 0.15 + 0.6 * x / WIDTH + 0.2 * spot
    green = 0.75 - 0.5 * y / HEIGHT + 0.2 * spot
    blue = 0.3 + 0.3 * spot + 0.1 * number
    return np.stack([red, green, blue, np.ones_like(red)], axis=-1)


def see_through(pixels: Pixels) -> Pixels:
    """The picture with a right third that fades away, and nothing at its edge."""
    seen = pixels.copy()
    x = np.arange(WIDTH)[None, :]
    seen[..., 3] = np.clip((55 - x) / 18, 0, 1)
    return seen


def cut_out(pixels: Pixels) -> Pixels:
    """The picture with a right quarter that is not there."""
    seen = pixels.copy()
    seen[:, 44:, 3] = 0
    return seen


def grey(pixels: Pixels) -> Pixels:
    seen = pixels.copy()
    seen[..., :3] = (pixels[..., :3] @ [0.299, 0.587, 0.114])[..., None]
    return seen


def as_bytes(pixels: Pixels, bands: int) -> NDArray[np.uint8]:
    chosen = pixels[..., [0, 3]] if bands == 2 else pixels[..., :bands]
    data = np.round(np.clip(chosen, 0, 1) * 255).astype(np.uint8)
    return data[..., 0] if bands == 1 else data


def image(pixels: Pixels, mode: str) -> Image.Image:
    """The pixels as a Pillow image: L, LA, RGB or RGBA."""
    return Image.fromarray(as_bytes(pixels, len(mode)), mode)


def indexed(pixels: Pixels) -> tuple[Image.Image, Pixels]:
    """The picture with 6 x 6 colours and one that is not seen, and what it then shows."""
    seen = pixels.copy()
    red, green = (np.round(pixels[..., band] * 5).astype(np.uint8) for band in (0, 1))
    index = red * 6 + green
    seen[..., 0], seen[..., 1], seen[..., 2] = red / 5, green / 5, 0.5
    hidden = pixels[..., 3] < 0.5
    index[hidden] = 36
    seen[..., 3] = ~hidden
    palette = [part for r in range(6) for g in range(6) for part in (r * 51, g * 51, 128)] + [255, 0, 255]
    picture = Image.fromarray(index, "P")
    picture.putpalette(palette)
    return picture, seen


def dotted() -> Pixels:
    """Black and white only."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    light = ((x // 6 + y // 6) % 2 == 0) | (x > 2 * y)
    return np.stack([light, light, light, np.ones_like(light)], axis=-1).astype(float)


def from_lab(lab: Pixels) -> Pixels:
    """sRGB of CIELAB (D50), by the formulas of the ICC's and the IEC's specifications."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8249]
    to_linear = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    linear = np.clip(xyz @ to_linear.T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.concatenate([rgb, np.ones_like(rgb[..., :1])], axis=-1)


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        what: in words, for the table of the documentation.
        extension: of its file.
        write: makes the file.
        seen: what each frame shows, upright.
        swapped: whether its profile has changed places of red and green.
        is_timed: whether the frames have durations.
        has_edges: whether it has hard ones, which lossy formats blur.
        loss: how far, in 256ths on the average, the file itself is from what is to be seen.
    """

    what: str
    extension: str
    write: Callable[[Path], None]
    seen: Sequence[Pixels]
    swapped: bool = False
    is_timed: bool = False
    has_edges: bool = False
    loss: float = 0.1


def lay_down(pixels: Pixels, orientation: int) -> Pixels:
    """The pixels as they lie in a file with this EXIF orientation (6 or 8)."""
    return np.rot90(pixels, 1 if orientation == 6 else -1)


def exif(orientation: int = 1, **rights: str) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    for name, tag in (("artist", 0x013B), ("copyright", 0x8298)):
        if name in rights:
            data[tag] = rights[name]
    return data


def saved(picture: Image.Image, picture_format: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: picture.save(path, picture_format, **options)


def _frames(mode: str, change: Callable[[Pixels], Pixels]) -> tuple[list[Pixels], list[Image.Image]]:
    seen = [change(scene(number)) for number in range(3)]
    return seen, [image(pixels, mode) for pixels in seen]


def _kinds() -> dict[str, Kind]:
    plain, faded = scene(), see_through(scene())
    swap = plain[..., [1, 0, 2, 3]]
    inverted = as_bytes(1 - plain, 3)
    cmyk = Image.fromarray(np.dstack([inverted, np.zeros((HEIGHT, WIDTH), np.uint8)]), "CMYK")
    palette, palette_seen = indexed(cut_out(plain))
    lab = np.dstack([30 + 50 * plain[..., 0], 60 * plain[..., 1] - 30, 40 * plain[..., 2] - 20])
    # As TIFF stores it: two signed bytes beside one that is not.
    lab_bytes = np.dstack([lab[..., :1] * 2.55, lab[..., 1:] % 256]).round().astype(np.uint8)
    deep = grey(plain)[..., 0]
    animated, animated_images = _frames("RGB", lambda pixels: pixels)
    cut, cut_images = _frames("RGBA", cut_out)
    through, through_images = _frames("RGBA", see_through)
    pages = [plain, grey(plain), swap]
    apng = {"save_all": True, "append_images": animated_images[1:], "duration": DURATIONS, "loop": 2}
    return {
        "jpeg-turned": Kind(
            "JPEG that lies on its side (EXIF orientation 6)",
            ".jpg",
            saved(image(lay_down(plain, 6), "RGB"), "JPEG", quality=95, exif=exif(6)),
            [plain],
            loss=0.8,
        ),
        "jpeg-profile": Kind(
            "JPEG with an ICC profile that is not sRGB",
            ".jpg",
            saved(image(swap, "RGB"), "JPEG", quality=95, icc_profile=SWAPPED),
            [plain],
            swapped=True,
            loss=0.8,
        ),
        "jpeg-cmyk": Kind("JPEG in CMYK", ".jpg", saved(cmyk, "JPEG", quality=95), [plain], loss=0.3),
        "jpeg-grey": Kind(
            "JPEG in grey",
            ".jpg",
            saved(image(grey(plain), "L"), "JPEG", quality=95),
            [grey(plain)],
            loss=0.2,
        ),
        "png-alpha": Kind(
            "PNG with shades of transparency", ".png", saved(image(faded, "RGBA"), "PNG"), [faded]
        ),
        "png-grey-alpha": Kind(
            "PNG in grey with transparency", ".png", saved(image(grey(faded), "LA"), "PNG"), [grey(faded)]
        ),
        "png-palette": Kind(
            "PNG with a palette, one colour of it transparent",
            ".png",
            saved(palette, "PNG", transparency=36),
            [palette_seen],
            has_edges=True,
        ),
        "png-1-bit": Kind(
            "PNG in black and white",
            ".png",
            saved(image(dotted(), "L").convert("1"), "PNG"),
            [dotted()],
            has_edges=True,
            loss=1.6,
        ),
        "png-16-bit": Kind(
            "PNG in grey of 16 bits",
            ".png",
            saved(Image.fromarray(np.round(deep * 65535).astype(np.uint16)), "PNG"),
            [grey(plain)],
        ),
        "png-animated": Kind(
            "PNG, animated", ".png", saved(animated_images[0], "PNG", **apng), animated, is_timed=True
        ),
        "gif-animated": Kind(
            "GIF, animated, partly transparent",
            ".gif",
            saved(
                cut_images[0],
                "GIF",
                save_all=True,
                append_images=cut_images[1:],
                duration=DURATIONS,
                loop=1,
                disposal=2,
            ),
            cut,
            is_timed=True,
            has_edges=True,
            loss=3.2,
        ),
        "webp-animated": Kind(
            "WebP, animated, with shades of transparency",
            ".webp",
            saved(
                through_images[0],
                "WEBP",
                save_all=True,
                append_images=through_images[1:],
                duration=DURATIONS,
                loop=2,
                lossless=True,
            ),
            through,
            is_timed=True,
        ),
        "tiff-pages": Kind(
            "TIFF of three pages",
            ".tif",
            saved(
                image(pages[0], "RGB"),
                "TIFF",
                save_all=True,
                append_images=[image(pages[1], "L"), image(pages[2], "RGB")],
            ),
            pages,
        ),
        "tiff-turned": Kind(
            "TIFF that lies on its side (orientation 8)",
            ".tiff",
            saved(image(lay_down(plain, 8), "RGB"), "TIFF", tiffinfo={274: 8}),
            [plain],
        ),
        "tiff-lab": Kind(
            "TIFF in LAB", ".tif", saved(Image.fromarray(lab_bytes, "LAB"), "TIFF"), [from_lab(lab)], loss=0.3
        ),
        "tiff-float": Kind(
            "TIFF in grey, with fractions from 0 to 1",
            ".tif",
            saved(Image.fromarray(deep.astype(np.float32)), "TIFF"),
            [grey(plain)],
        ),
        "bmp": Kind("BMP", ".bmp", saved(image(plain, "RGB"), "BMP"), [plain]),
        "avif": Kind("AVIF", ".avif", saved(image(plain, "RGB"), "AVIF", quality=95), [plain], loss=0.6),
    }


KINDS = _kinds()
