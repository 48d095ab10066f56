"""The size that a picture gets, and the part of it that is kept."""

from dataclasses import dataclass
from typing import Literal

FitMode = Literal["fit", "fill", "exact"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """What becomes of an upright picture.

    Attributes:
        size: its new width and height in pixels.
        crop: the centred part that is kept, as shares of its width and height.
    """

    size: tuple[int, int]
    crop: tuple[float, float] = (1.0, 1.0)

    @property
    def whole_size(self) -> tuple[int, int]:
        """The size that the whole picture would have at this scale, rounded down."""
        return int(self.size[0] / self.crop[0]), int(self.size[1] / self.crop[1])


def scaling_for(
    size: tuple[int, int], width: int | None, height: int | None, mode: FitMode, *, enlarge: bool = False
) -> Scaling:
    """Work out how a picture is scaled.

    Args:
        size: the picture's width and height.
        width: what is asked for; None follows from the height and the picture's proportions.
        height: what is asked for; None follows from the width.
        mode: ``fit``: inside width x height, with its proportions. ``fill``: all of width x height, and what
            is too much at two sides is cut off. ``exact``: this size, whatever becomes of the proportions.
        enlarge: whether ``fit``, ``fill`` and one side alone may enlarge it; ``exact`` always may. Filled
            without it, a picture that is too small gives the largest part of it with the proportions asked for.
    """
    across = None if width is None else width / size[0]
    down = None if height is None else height / size[1]
    if width is None or height is None or mode == "fit":
        scale = min(side for side in (across, down, None if enlarge else 1.0) if side is not None)
        return Scaling((_scaled(size[0], scale), _scaled(size[1], scale)))
    if mode == "exact":
        return Scaling((width, height))
    shrink = 1.0 if enlarge else min(1.0, size[0] / width, size[1] / height)
    wide = (_scaled(width, shrink), _scaled(height, shrink))
    scale = max(wide[0] / size[0], wide[1] / size[1])
    return Scaling(wide, (min(1.0, wide[0] / scale / size[0]), min(1.0, wide[1] / scale / size[1])))


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))
