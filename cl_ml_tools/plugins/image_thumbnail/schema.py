"""What a thumbnail job is asked for."""

from typing import Annotated, Literal

from pydantic import Field

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.picture_options import (
    Background,
    CommaSeparated,
    OutputFormat,
    Quality,
    Strict,
    extension_of,
)

MAX_SIZES = 16


Size = Annotated[int, Field(gt=0, le=4096)]


class ImageThumbnailParams(BaseJobParams):
    """The thumbnails that are made of each picture.

    Attributes:
        sizes: the longest side of each, in pixels; a picture that is smaller is not enlarged.
        mode: ``fit``: with the picture's proportions. ``fill``: square, cutting off what is too much.
        format: the format of all; None is JPEG, and PNG for a picture with transparency.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        background: the colour under all transparency; None leaves it where the format has it.
        strict: whether one bad file is the end of the job.
    """

    sizes: Annotated[list[Size], CommaSeparated] = Field(
        default=[256],
        min_length=1,
        max_length=MAX_SIZES,
        description=f"Longest side in pixels, 1 to 4096; up to {MAX_SIZES} sizes, the field repeated or as 512,128.",
    )
    mode: Literal["fit", "fill"] = Field(
        default="fit",
        description="fit: with the picture's proportions. fill: square, the middle of the picture.",
    )
    format: OutputFormat | None = Field(
        default=None, description="Left out: JPEG, and PNG for a picture with transparency."
    )
    quality: Quality = 80
    background: Background = None
    strict: Strict = False

    @property
    def extension(self) -> str:
        """The extension that outputs are planned with, without the dot."""
        return extension_of(self.format or "jpg")
