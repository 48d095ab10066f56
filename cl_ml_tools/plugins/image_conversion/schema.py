"""What a conversion job is asked for."""

from pydantic import Field

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.picture_options import (
    Background,
    Lossless,
    OutputFormat,
    Progressive,
    Quality,
    Strict,
    extension_of,
)


class ImageConversionParams(BaseJobParams):
    """The format that pictures shall have.

    Attributes:
        format: the format's name; ``jpg`` and ``jpeg`` are one format. Upper case is accepted.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        background: the colour under all transparency; None leaves it where the format has it.
        lossless: whether WebP is written without loss.
        progressive: whether JPEG is written progressively.
        strict: whether one bad file is the end of the job.
    """

    format: OutputFormat = Field(description="The format to convert to.")
    quality: Quality = 85
    background: Background = None
    lossless: Lossless = False
    progressive: Progressive = False
    strict: Strict = False

    @property
    def extension(self) -> str:
        """The extension of file names in this format, without the dot."""
        return extension_of(self.format)
