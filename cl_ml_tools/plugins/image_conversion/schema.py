"""What a conversion job is asked for."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cl_ml_tools.common.schemas import BaseJobParams


def _lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


PictureFormat = Annotated[
    Literal["png", "jpg", "jpeg", "webp", "gif", "bmp", "tiff"], BeforeValidator(_lower_case)
]


class ImageConversionParams(BaseJobParams):
    """The format that pictures shall have.

    Attributes:
        format: the format's name; ``jpg`` and ``jpeg`` are one format. Upper case is accepted.
        quality: 1 to 100, for the formats that lose something: JPEG and WebP.
    """

    format: PictureFormat = Field(description="The format to convert to.")
    quality: int = Field(
        default=85, ge=1, le=100, description="1 to 100. Counts for JPEG and WebP; above 95 is waste."
    )

    @property
    def extension(self) -> str:
        """The extension of file names in this format, without the dot."""
        return "jpg" if self.format == "jpeg" else self.format
