"""What a watermark job is asked for."""

from typing import Literal

from pydantic import Field

from cl_ml_tools import BaseJobParams

Position = Literal["top-left", "top-right", "bottom-left", "bottom-right", "center"]


class WatermarkParams(BaseJobParams):
    watermark_text: str = Field(min_length=1, max_length=200, description="What to write.")
    position: Position = Field(default="bottom-right", description="Where to write it.")
    opacity: float = Field(default=0.5, gt=0, le=1, description="How strong it is; 1 hides what is below.")
