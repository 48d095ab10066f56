"""What a watermark job is asked for."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.picture_options import Background, Colour, Progressive, Quality, Strict


def _with_hyphen(value: Any) -> Any:
    return value.lower().replace("_", "-") if isinstance(value, str) else value


Position = Annotated[
    Literal[
        "top-left",
        "top",
        "top-right",
        "left",
        "center",
        "right",
        "bottom-left",
        "bottom",
        "bottom-right",
        "tile",
    ],
    BeforeValidator(_with_hyphen),
]


class ImageWatermarkParams(BaseJobParams):
    """The mark that is put on pictures: a text, or without one the last of the inputs.

    Attributes:
        watermark_text: the text, of one or more lines; None when the last input is the mark.
        position: where the mark lies; ``tile`` covers the picture with it.
        opacity: 0 (not seen) to 1 (covers what is below).
        scale: the mark's width as a share of the picture's.
        margin: how far it stays from the edges, as a share of the picture's shorter side.
        colour: of the text; its outline is black or white, whatever stands out.
        background: the colour under all transparency; None leaves it where the format has it.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        progressive: whether JPEG is written progressively.
        strict: whether one bad file is the end of the job.
    """

    watermark_text: str | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="The text. Left out: the last of the files is the mark, and is put on all others.",
    )
    position: Position = Field(default="bottom-right", description="Where it lies; tile covers the picture.")
    opacity: float = Field(default=0.5, ge=0, le=1, description="0 is not seen, 1 covers what is below.")
    scale: float = Field(default=0.3, gt=0, le=1, description="The mark's width as a share of the picture's.")
    margin: float = Field(
        default=0.03, ge=0, le=0.4, description="Distance from the edges as a share of the shorter side."
    )
    colour: Colour = Field(default="white", description="Colour of the text.")
    background: Background = None
    quality: Quality = 85
    progressive: Progressive = False
    strict: Strict = False

    def expected_output_count(self) -> int:
        """One for each input, but none for the one that is the mark."""
        return len(self.input_paths) - (self.watermark_text is None)

    @model_validator(mode="after")
    def _has_a_mark(self) -> Self:
        if self.watermark_text is not None and not self.watermark_text.strip():
            raise ValueError("watermark_text is blank: give a text, or send the mark as the last file")
        if self.watermark_text is None and len(self.input_paths) == 1:
            raise ValueError("give watermark_text, or send the mark as a second file")
        return self
