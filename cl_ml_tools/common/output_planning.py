"""Which inputs the outputs of a job are named after, before there are any."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import cycle, islice

from cl_ml_tools.errors import InvalidJobError

MAX_OUTPUTS = 1000
"""How many outputs of one job may be named ahead; as many as inputs always may."""

planned_outputs: ContextVar[Callable[[int], list[str]] | None] = ContextVar("planned_outputs", default=None)
"""Makes the output paths of parameters that are validated before it is known how many these expect."""


def in_rounds(inputs: Sequence[str], count: int) -> list[str]:
    """Return ``count`` of the inputs, from the first on; after the last one comes the first again.

    Raises:
        InvalidJobError: there would be more than `MAX_OUTPUTS`, and more than inputs.
    """
    if count > max(MAX_OUTPUTS, len(inputs)):
        raise InvalidJobError(f"The job would have {count} outputs; {MAX_OUTPUTS} are the most")
    return list(islice(cycle(inputs), max(count, 0)))
