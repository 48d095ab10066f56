"""The matrix as libvips sees it, which shares no line with Pillow: run it with pip install 'pyvips[binary]'."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_kinds import HEIGHT, KINDS, WIDTH, Pixels
from picture_reference import distance, resampled
from test_picture_matrix import HARD_EDGES, LOSS, LOSSY, SIZES, SIZINGS, convert, expected_in, resize

pyvips = pytest.importorskip("pyvips", reason="libvips is a second opinion: pip install 'pyvips[binary]'")

# Of these libvips has no reader in its wheel, or means other colours: CMYK by a profile of its own.
UNREAD = {"BMP"}
OTHER_COLOURS = {"CMYK", "F", "LAB"}
# Its way from YCbCr and its use of a profile are rounded otherwise; it does not smooth the colours of an AVIF.
ALSO_ALLOWED = {"AVIF": 0.9}


def shown_by_vips(path: Path, height: int, pages: int) -> list[Pixels]:
    """What libvips shows of each frame, in sRGB by the profile."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic in (b"II*\0", b"MM\0*"):  # whose pages may differ
        return [pixels_of(pyvips.Image.new_from_file(str(path), page=page)) for page in range(pages)]
    whole = pixels_of(
        pyvips.Image.new_from_file(str(path), **({"n": -1} if magic in (b"GIF8", b"RIFF") else {}))
    )
    return [whole[at : at + height] for at in range(0, len(whole), height)]


def pixels_of(picture: Any) -> Pixels:
    if picture.get_typeof("icc-profile-data"):
        picture = picture.icc_transform("srgb", embedded=True, intent="perceptual")
    picture = picture.colourspace("srgb").cast("uchar")
    shape = picture.height, picture.width, picture.bands
    pixels = np.ndarray(buffer=picture.write_to_memory(), dtype=np.uint8, shape=shape).astype(float) / 255
    if picture.bands % 2:
        pixels = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    return pixels if pixels.shape[-1] == 4 else pixels[..., [0, 0, 0, 1]]


def check(path: Path, name: str, seen: list[Pixels], report: dict[str, Any]) -> None:
    kind, written = KINDS[name], report["format"]
    is_sequence = written == "AVIF" and report["frames"] > 1
    if is_sequence or written in UNREAD or report["mode"] in OTHER_COLOURS:
        pytest.skip("libvips does not read it, or means other colours")
    if written == "PNG":
        seen = seen[:1]  # it reads the first frame only
    frames = shown_by_vips(path, report["height"], report["frames"])
    assert len(frames) == min(len(seen), report["frames"])
    for frame, pixels in zip(frames, seen, strict=False):
        expected = expected_in(written, pixels)
        allowed = kind.loss + LOSS[written] * (HARD_EDGES if kind.has_edges and written in LOSSY else 1)
        assert distance(frame, expected) < allowed + ALSO_ALLOWED.get(written, 0.4)


@pytest.mark.parametrize("target", ["png", "jpg", "webp", "gif", "tiff", "avif"])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_converted_shows_the_same_in_libvips(name: str, target: str, tmp_path: Path) -> None:
    path, report = convert(KINDS[name], target, tmp_path)
    assert (report["width"], report["height"]) == (WIDTH, HEIGHT)
    check(path, name, list(KINDS[name].seen), report)


@pytest.mark.parametrize("sizing", SIZINGS)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_resized_shows_the_same_in_libvips(name: str, sizing: str, tmp_path: Path) -> None:
    path, report = resize(KINDS[name], sizing, tmp_path)
    size, crop = SIZES[sizing]
    check(path, name, [resampled(pixels, size, crop) for pixels in KINDS[name].seen], report)
