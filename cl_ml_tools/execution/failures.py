"""What a failed run is told as."""

from collections.abc import Iterator, Sequence

from cl_ml_tools.errors import cause_of

TOLD_CAUSES = 3
"""How many different exceptions of a group are told."""


class PluginError(Exception):
    """The job fails with this message alone: invalid parameters, what the plugin said, or what it returned."""


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in the groups in it; ``error`` itself when it is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves_of(inner)
    else:
        yield error


def causes_of(errors: Sequence[BaseException]) -> str:
    """The first few of ``errors`` as a message, the same one only once."""
    causes = list(dict.fromkeys(map(cause_of, errors)))
    rest = [f"{len(causes) - TOLD_CAUSES} more"] if len(causes) > TOLD_CAUSES else []
    return "; ".join(causes[:TOLD_CAUSES] + rest)
