"""Whose jobs somebody may see."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from cl_ml_tools.common.schemas import Job
from cl_ml_tools.submission.asking import creator_of

_IS_ADMIN = "cl_ml_tools.is_admin"

IsAdmin = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks.

    Attributes:
        creator: the id that their jobs have as ``created_by``, or None for nobody.
        is_admin: whether all jobs are theirs to see.
    """

    creator: str | None
    is_admin: bool

    def may_see(self, job: Job) -> bool:
        """Whether the job is theirs. A repository that does not say whose a job is shows it to everybody."""
        return self.is_admin or getattr(job, "created_by", self.creator) == self.creator


def viewer_of(user: Any, is_admin: IsAdmin | None) -> Viewer:
    """Who asks, from what ``get_current_user`` returned; ``is_admin`` is asked of a user that is not None.

    Raises:
        TypeError: the user is neither None nor has an ``id``.
    """
    return Viewer(creator_of(user), is_admin is not None and user is not None and bool(is_admin(user)))


def admins_told(is_admin: IsAdmin | None) -> Callable[[Request], Awaitable[None]]:
    """Make a dependency that tells the routes below it who is an admin: factories of routes are not given that."""

    async def tell(request: Request) -> None:
        request.scope[_IS_ADMIN] = is_admin

    return tell


def viewer_in(request: Request, user: Any) -> Viewer:
    """Who asks, on a route that may stand below `admins_told`."""
    return viewer_of(user, request.scope.get(_IS_ADMIN))
