"""From how a picture's pixels are stored to how a format of files can hold them."""

from typing import cast

from PIL import Image

from cl_ml_tools.pictures.formats import PictureFormat
from cl_ml_tools.pictures.notes import Notes
from cl_ml_tools.pictures.profiles import in_srgb, profile_of


def with_plain_alpha(image: Image.Image) -> Image.Image:
    """The picture with its transparency in an alpha channel or one entry of its palette.

    Of what else the file said, only the ICC profile stays with it. Deep grey comes in this machine's order.
    """
    if image.mode == "PA" or isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    elif "transparency" in image.info and image.mode in ("1", "L"):
        image = image.convert("LA")
    elif "transparency" in image.info and image.mode == "RGB":
        image = image.convert("RGBA")
    elif image.mode.startswith("I;16") and image.mode != "I;16":
        image = image.convert("I").convert("I;16")
    elif image.mode in ("RGBX", "RGBa", "La"):
        image = image.convert({"RGBX": "RGB", "RGBa": "RGBA", "La": "LA"}[image.mode])
    kept = {"icc_profile"} | ({"transparency"} if image.mode == "P" else set())
    image.info = {key: value for key, value in image.info.items() if key in kept}
    return image


def is_see_through(image: Image.Image) -> bool:
    """Whether something of the picture is transparent, not merely could be."""
    if image.mode in ("LA", "RGBA"):
        return image.getchannel("A").getextrema() != (255, 255)
    return image.has_transparency_data


def with_steady_pixels(image: Image.Image) -> Image.Image:
    """The picture in a mode whose values can be averaged: no palette, no mere black and white."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "P":
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def in_colours(image: Image.Image, notes: Notes) -> Image.Image:
    """The picture as L, LA, RGB or RGBA in sRGB, so that it can be drawn on or put beside others."""
    image = with_steady_pixels(image)
    if _is_deep(image):
        notes.add("Deep grey was scaled to 8 bits.")
        image = _grey(image, deep=False)
    return in_srgb(image)


def flattened(image: Image.Image, background: str) -> Image.Image:
    """The picture without transparency, on a colour.

    Args:
        image: in any mode; grey stays grey on a grey background.
        background: a colour as Pillow knows it.
    """
    if not image.has_transparency_data:
        return image
    image = with_steady_pixels(image)
    colour = Image.new("RGB", (1, 1), background)
    is_grey = image.mode == "LA" and len(set(cast("tuple[int, ...]", colour.getpixel((0, 0))))) == 1
    mode = "L" if is_grey else "RGB"
    canvas = Image.new(mode, image.size, background)
    canvas.paste(image.convert(mode), mask=image.getchannel("A"))
    if profile := profile_of(image):
        canvas.info["icc_profile"] = profile
    return canvas


def held_by(
    image: Image.Image, target: PictureFormat, notes: Notes, background: str = "white"
) -> Image.Image:
    """The picture in a mode that the format can hold, with an ICC profile only if it can hold that too.

    Alpha goes onto the background where there is no place for it, deep grey is scaled to 8 bits, other
    colours become RGB by their profile.

    Args:
        image: left as it is.
        target: the format.
        notes: takes what is given up.
        background: a colour as Pillow knows it.
    """
    if not target.has_profile and profile_of(image):
        notes.add(f"The colours were converted to sRGB: {target.name} has no place for their profile.")
        image = in_srgb(with_steady_pixels(image))
    if image.has_transparency_data and not target.has_alpha:
        if is_see_through(image):
            notes.add(f"Transparency was replaced by the background: {target.name} has none.")
        image = flattened(image, background)
    if image.mode in target.modes:
        return image
    if _is_deep(image):
        image = _grey(image, deep="I;16" in target.modes)
        if image.mode != "I;16":
            notes.add("Deep grey was scaled to 8 bits.")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        steady = with_steady_pixels(image)
        if steady is image:
            by = (
                " by their profile"
                if profile_of(image)
                else ""
                if image.mode == "LAB"
                else " without a profile"
            )
            notes.add(f"The colours were converted from {image.mode} to RGB{by}.")
            image = in_srgb(steady)
        else:
            image = steady
    if image.mode in target.modes:
        return image
    if profile_of(image):  # a grey one, of no use to what will be colours
        image = in_srgb(image)
    return image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F", "I;16")


def _grey(image: Image.Image, *, deep: bool) -> Image.Image:
    """Grey of 16 or 32 bits, or of fractions, as 16-bit grey where that is ``deep`` enough, else as 8-bit."""
    low, high = 0.0, 65535.0
    if image.mode != "I;16":
        low, high = cast("tuple[float, float]", image.getextrema())
    sixteen_bits = image.mode != "F" and low >= 0 and high <= 65535
    if sixteen_bits and deep:
        return image.convert("I;16")
    # Fractions up to 1 and numbers of 8 or 16 bits keep their meaning; any other range is stretched.
    for end in (65535.0,) if image.mode != "F" else (1.0, 255.0, 65535.0):
        if low >= 0 and high <= end:
            low, high = 0.0, end
            break
    scale = 255 / (high - low) if high > low else 0.0
    # The half is for the conversion, which cuts off.
    return image.convert("F").point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
