"""How much a picture may hold."""

from dataclasses import dataclass

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.settings import Settings


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """The limits of one picture, read or made.

    Attributes:
        pixels: of all frames together.
        frames: of an animation, or pages.
    """

    pixels: int
    frames: int

    def check(self, name: str, width: int, height: int, frames: int = 1) -> None:
        """Do nothing for a picture within the limits.

        Args:
            name: what the message calls it.
            width: pixels.
            height: pixels.
            frames: how many of that size.

        Raises:
            BadInputError: it is too large.
        """
        if frames > self.frames:
            raise BadInputError(f"{name} has more than {self.frames} frames or pages, which is the limit")
        many = f"{frames} frames of " if frames > 1 else ""
        self.check_sum(name, width * height * frames, f"{many}{width} x {height} pixels")

    def check_sum(self, name: str, pixels: int, what: str) -> None:
        """As `check`, for frames of different sizes.

        Args:
            name: what the message calls it.
            pixels: of all together.
            what: what it has, in words.

        Raises:
            BadInputError: it is too large.
        """
        if pixels > self.pixels:
            raise BadInputError(
                f"{name} has {what}; the limit is {self.pixels} in all. "
                f"Make it smaller, or have CL_ML_TOOLS_MAX_PICTURE_PIXELS raised."
            )


def picture_limits() -> PictureLimits:
    """The limits that the environment sets."""
    settings = Settings.from_environment()
    return PictureLimits(settings.max_picture_pixels, settings.max_picture_frames)
