"""What a metadata job is asked for."""

from pydantic import Field

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.picture_options import Strict


class ImageMetadataParams(BaseJobParams):
    """What is told of each picture.

    Attributes:
        gps: whether the place where it was taken is told.
        colours: how many dominant colours are told, at most.
        strict: whether one bad file is the end of the job.
    """

    gps: bool = Field(default=False, description="Tell where the picture was taken, if its file does.")
    colours: int = Field(default=5, ge=0, le=16, description="How many dominant colours to tell, at most.")
    strict: Strict = False
