"""Frames that go into one file: what the formats want of them."""

from collections.abc import Sequence

from PIL import Image

from cl_ml_tools.pictures.formats import PictureFormat
from cl_ml_tools.pictures.notes import Notes

PAGE_MS = 1000
"""How long a page is shown in an animation, in milliseconds."""


def alike(images: Sequence[Image.Image]) -> list[Image.Image]:
    """The images in one mode and one size, as an animation wants them; smaller ones are centred."""
    modes = {image.mode for image in images}
    has_alpha = any(image.has_transparency_data for image in images)
    size = max(image.width for image in images), max(image.height for image in images)
    if has_alpha or len({image.size for image in images}) > 1:
        mode = "RGBA"
    elif len(modes) == 1 and modes <= {"L", "RGB"}:
        mode = modes.pop()
    else:
        mode = "RGB"
    return [_placed(image if image.mode == mode else _converted(image, mode), size) for image in images]


def durations_for(
    target: PictureFormat, durations: Sequence[float | None], notes: Notes
) -> list[int] | list[float] | None:
    """The durations in milliseconds as the format holds them, None when it has no place for them."""
    if not target.is_animated:
        if any(duration is not None for duration in durations):
            notes.add(f"The durations of the frames are lost: {target.name} has pages.")
        return None
    if any(duration is None for duration in durations):
        notes.add(f"The pages became an animation that shows each for {PAGE_MS} ms.")
    given = [float(PAGE_MS) if duration is None else duration for duration in durations]
    if target.name == "PNG":
        return given
    # A frame that is shown for a moment must not become one that is skipped; GIF counts hundredths.
    grain = 10 if target.name == "GIF" else 1
    return [max(grain, round(duration / grain) * grain) if duration else 0 for duration in given]


def as_gif_frame(image: Image.Image, notes: Notes) -> Image.Image:
    """The picture with a palette; what is less than half opaque is transparent, all else is not."""
    if image.mode in ("1", "L") or (image.mode == "P" and not image.has_transparency_data):
        return image
    if not image.has_transparency_data:
        image = image if image.mode == "RGB" else image.convert("RGB")
        if image.getcolors(256) is None:
            notes.add("The colours were reduced to 256: GIF has no more.")
        return image.quantize(256)
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if any(alpha.histogram()[1:255]):
        notes.add("Shades of transparency became all or nothing: GIF has no others.")
    hidden = alpha.point(lambda value: 255 if value < 128 else 0)
    colours = rgba.convert("RGB")
    # What is not seen shall not take a place in the palette.
    colours.paste("white", mask=hidden)
    if colours.getcolors(255) is None:
        notes.add("The colours were reduced to 255 and transparency: GIF has no more.")
    indexed = colours.quantize(255)
    palette = (indexed.getpalette() or [])[: 255 * 3]
    indexed.putpalette(palette + [0] * (768 - len(palette)))
    indexed.paste(255, mask=hidden)
    indexed.info = {"transparency": 255}
    return indexed


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "P" and mode == "RGB":
        return image.convert("RGB")
    return image.convert("RGBA").convert(mode) if image.mode == "P" else image.convert(mode)


def _placed(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    canvas = Image.new("RGBA", size)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    canvas.info = image.info
    return canvas
