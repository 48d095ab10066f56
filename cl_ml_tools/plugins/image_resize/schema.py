"""What a resize job is asked for."""

from pydantic import Field

from cl_ml_tools.common.schemas import BaseJobParams

# No format that we write holds more pixels in a row.
MAX_SIDE = 65535


class ImageResizeParams(BaseJobParams):
    """The size that pictures shall have.

    Attributes:
        width: pixels.
        height: pixels.
        maintain_aspect_ratio: whether width and height are a box that the picture is shrunk to fit into;
            it is never enlarged. Else the picture gets exactly this size.
    """

    width: int = Field(gt=0, le=MAX_SIDE, description="Width in pixels.")
    height: int = Field(gt=0, le=MAX_SIDE, description="Height in pixels.")
    maintain_aspect_ratio: bool = Field(
        default=False,
        description="Keep the picture's proportions: shrink it to fit into width x height, never enlarge it. "
        "Without this it gets exactly that size.",
    )
