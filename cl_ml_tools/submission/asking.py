"""Asking a repository, and whose jobs they are."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from cl_ml_tools.common.job_leases import LeasingJobRepository
from cl_ml_tools.common.job_repository import JobRepository

T = TypeVar("T")

MAX_ASKING = 8
"""How many threads of a process call a repository that keeps leases at one time."""

_limiter = RunVar[CapacityLimiter]("cl_ml_tools.asking")


async def ask(repository: JobRepository, question: Callable[[], T]) -> T:
    """Return what ``question``, a call of the repository, returns.

    A repository that keeps leases is made for many threads, and is called in one of them. Any other is called in the
    event loop's own thread, one call at a time, which is what 0.2.0 promised: its database connection may belong to
    that thread, or be spoiled by two transactions at once.
    """
    if isinstance(repository, LeasingJobRepository):
        return await to_thread.run_sync(question, limiter=_asking())
    return question()


def _asking() -> CapacityLimiter:
    """Each thread that asks has a connection of its own, so few do: one for each event loop's process."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(CapacityLimiter(MAX_ASKING))
        return _limiter.get()


def creator_of(user: Any) -> str | None:
    """Tell whose job it will be from what ``get_current_user`` returned, None for nobody.

    Raises:
        TypeError: the user is neither None nor has an ``id``.
    """
    if user is None:
        return None
    try:
        identity = user["id"] if isinstance(user, Mapping) else user.id
    except (KeyError, AttributeError) as error:
        raise TypeError(
            f"get_current_user returned a {type(user).__name__} without id. "
            f"Let it return None, an object with the attribute id, or a dict with the key 'id'."
        ) from error
    return None if identity is None else str(identity)
