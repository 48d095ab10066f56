"""Giving a picture another size."""

from PIL import Image

from cl_ml_tools.pictures.limits import picture_limits
from cl_ml_tools.pictures.modes import with_steady_pixels
from cl_ml_tools.pictures.opening import Frame, Picture
from cl_ml_tools.pictures.sizes import Scaling

# How much larger than its target a picture is left by the fast half of the scaling. From 2 on the outcome is
# hardly told from that of the slow half alone: 51 dB and more, measured with 12 megapixels.
_REDUCING_GAP = 2.0

_NOT_REDUCED = ("I;16",)

# Where most of the time goes into resampling, and the file is to be lossy, a window of two lobes does it in two thirds
# of the time of one of three: 47 dB from the exact outcome instead of 51, of which a JPEG of quality 85, which is 34 dB
# from it, shows 0.1.
_LARGE_PIXELS = 1_000_000


def scaled_first(picture: Picture, scaling: Scaling, *, loses: bool = False) -> Frame:
    """Decode the first frame of a picture and scale it; of a large JPEG no more is decoded than is needed.

    Args:
        picture: the picture.
        scaling: for the picture as it is seen upright.
        loses: whether it is written in a way that loses more than fast resampling does.

    Raises:
        BadInputError: it is damaged, or the outcome would be too large.
    """
    check_scaling(picture, scaling, 1)
    return scaled(picture.first(at_least=scaling.whole_size), scaling, loses=loses)


def check_scaling(picture: Picture, scaling: Scaling, frames: int) -> None:
    """Do nothing when so many frames may be made at that size.

    Raises:
        BadInputError: they would be too large.
    """
    picture_limits().check(f"{picture.name}, resized,", *scaling.size, frames)


def scaled(frame: Frame, scaling: Scaling, *, loses: bool = False) -> Frame:
    """The frame at another size, not turned yet: that is cheaper afterwards.

    Args:
        frame: left as it is.
        scaling: for the frame as it is seen upright.
        loses: whether it is written in a way that loses more than fast resampling does.
    """
    lies = frame.orientation >= 5
    size = scaling.size[::-1] if lies else scaling.size
    crop = scaling.crop[::-1] if lies else scaling.crop
    left, top, right, bottom = frame.area or (0.0, 0.0, *map(float, frame.image.size))
    x, y = (right - left) * (1 - crop[0]) / 2, (bottom - top) * (1 - crop[1]) / 2
    box = (left + x, top + y, right - x, bottom - y)
    if size == frame.image.size and box == (0.0, 0.0, *map(float, size)):
        return frame
    image = with_steady_pixels(frame.image)
    gap = None if image.mode in _NOT_REDUCED else _REDUCING_GAP
    is_large = image.width * image.height > _LARGE_PIXELS
    window = Image.Resampling.BICUBIC if loses and is_large else Image.Resampling.LANCZOS
    image = image.resize(size, window, box, gap)
    return Frame(image, frame.duration_ms, frame.orientation)
