"""What a hash job is asked for."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.picture_options import CommaSeparated, Strict

Algorithm = Literal["ahash", "dhash", "phash", "whash"]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("give a power of two: 2, 4, 8, 16 or 32")
    return value


class ImageHashParams(BaseJobParams):
    """The fingerprints that are computed of each picture.

    Attributes:
        algorithms: of how it looks; the SHA-256 of the file is always computed.
        hash_size: their square root in bits: 8 gives 64 bits.
        strict: whether one bad file is the end of the job.
    """

    algorithms: Annotated[list[Algorithm], CommaSeparated] = Field(
        default=["ahash", "dhash", "phash", "whash"],
        description="ahash, dhash, phash, whash; the field repeated, or as phash,dhash.",
    )
    hash_size: Annotated[int, AfterValidator(_power_of_two)] = Field(
        default=8, ge=2, le=32, description="2, 4, 8, 16 or 32; 8 gives hashes of 64 bits."
    )
    strict: Strict = False
