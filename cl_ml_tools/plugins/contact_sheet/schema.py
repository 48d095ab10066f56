"""What a contact sheet is asked for."""

from pydantic import Field

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.picture_options import Colour, OutputFormat, Quality, Strict, extension_of


class ContactSheetParams(BaseJobParams):
    """One sheet of many pictures: all inputs, one output.

    Attributes:
        columns: how many pictures stand beside each other; None makes the sheet about square.
        cell: the side of the box that each picture is shrunk into, in pixels.
        gap: pixels between the boxes and around them.
        labels: whether the files' names stand below the pictures.
        background: the sheet's colour.
        format: the sheet's format.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        strict: whether one bad file is the end of the job.
    """

    columns: int | None = Field(
        default=None, ge=1, le=100, description="Pictures in a row; left out, the sheet is about square."
    )
    cell: int = Field(default=256, ge=16, le=2048, description="Side of each picture's box in pixels.")
    gap: int = Field(default=12, ge=0, le=200, description="Pixels between the boxes and around them.")
    labels: bool = Field(default=True, description="Write the files' names below the pictures.")
    background: Colour = Field(
        default="white", description="The sheet's colour, as #rrggbb or a name of HTML."
    )
    format: OutputFormat = Field(default="jpg", description="The sheet's format.")
    quality: Quality = 85
    strict: Strict = False

    @property
    def extension(self) -> str:
        """The extension of the sheet's file, without the dot."""
        return extension_of(self.format)

    def expected_output_count(self) -> int:
        """One, of however many inputs."""
        return 1
