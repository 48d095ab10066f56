"""What a resize job is asked for."""

from typing import Self

from pydantic import Field, model_validator

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.picture_options import (
    MAX_SIDE,
    Background,
    FitMode,
    Lossless,
    Progressive,
    Quality,
    Strict,
)


class ImageResizeParams(BaseJobParams):
    """The size that pictures shall have.

    Attributes:
        width: pixels; None when it shall follow from the height.
        height: pixels; None when it shall follow from the width.
        maintain_aspect_ratio: whether ``mode`` is ``fit`` when it is not given; else it is ``exact`` then.
        mode: ``fit``: inside width x height, with the picture's proportions. ``fill``: all of width x height;
            what is too much is cut off. ``exact``: this size, whatever becomes of the proportions.
        enlarge: whether ``fit``, ``fill`` and one side alone may enlarge; ``exact`` always may.
        background: the colour under all transparency; None leaves it where the format has it.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        lossless: whether WebP is written without loss.
        progressive: whether JPEG is written progressively.
        strict: whether one bad file is the end of the job.
    """

    width: int | None = Field(
        default=None, gt=0, le=MAX_SIDE, description="Width in pixels; left out, it follows from the height."
    )
    height: int | None = Field(
        default=None, gt=0, le=MAX_SIDE, description="Height in pixels; left out, it follows from the width."
    )
    maintain_aspect_ratio: bool = Field(
        default=False,
        description="Keep the picture's proportions: shrink it to fit into width x height, never enlarge it. "
        "Without this it gets exactly that size. The same as mode=fit.",
    )
    mode: FitMode | None = Field(
        default=None,
        description="fit: inside width x height, with the picture's proportions. fill: all of width x height, "
        "cutting off what is too much. exact: this size, out of proportion.",
    )
    enlarge: bool = Field(
        default=False, description="Whether fit, fill and one side alone may enlarge. exact always may."
    )
    background: Background = None
    quality: Quality = 85
    lossless: Lossless = False
    progressive: Progressive = False
    strict: Strict = False

    @property
    def fit_mode(self) -> FitMode:
        """The mode that counts."""
        return self.mode or ("fit" if self.maintain_aspect_ratio else "exact")

    @model_validator(mode="after")
    def _says_one_size(self) -> Self:
        if self.width is None and self.height is None:
            raise ValueError("give width, height or both")
        if self.mode == "exact" and self.maintain_aspect_ratio:
            raise ValueError("mode=exact does not maintain the aspect ratio: leave one of them out")
        return self
