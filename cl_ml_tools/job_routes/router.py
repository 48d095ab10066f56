"""The router of jobs: what the repository and the watcher can do, the routes offer."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.job_watcher import JobWatcher
from cl_ml_tools.job_routes.access import JobAccess
from cl_ml_tools.job_routes.control import add_control
from cl_ml_tools.job_routes.events import EventsRoute, add_events
from cl_ml_tools.job_routes.outputs import add_outputs
from cl_ml_tools.job_routes.state import add_state
from cl_ml_tools.web.errors import UNAVAILABLE, ProblemRoute


def create_job_router(
    repository: JobRepository,
    get_current_user: Callable[..., Any],
    *,
    watcher: JobWatcher | None = None,
    file_storage: FileStorage | None = None,
    is_admin: Callable[[Any], bool] | None = None,
) -> APIRouter:
    """The routes of jobs, to be included in any app.

    A user sees only jobs of their own, and others get 404; where ``get_current_user`` returns None all jobs that
    are nobody's are shared. A repository that is only a `JobRepository` gives state and removal; what it offers
    of `cl_ml_tools.common.job_control` is offered too.

    Args:
        repository: any repository of jobs.
        get_current_user: any FastAPI dependency; returns None, an object with ``id``, or a dict with ``id``.
        watcher: follows the repository's jobs; without it there is no route for events.
        file_storage: has the jobs' files; without it there are no routes for outputs, and removing a job leaves
            its files.
        is_admin: tells of a user whether they see, and may act on, everybody's jobs; without it nobody does.
    """
    router = APIRouter(tags=["jobs"], route_class=ProblemRoute, responses=UNAVAILABLE)
    access = JobAccess(repository, get_current_user, is_admin)
    # In this order: `/jobs/events` must not be taken for the job `events`.
    if watcher is not None:
        events = APIRouter(route_class=EventsRoute)
        add_events(events, access, watcher)
        router.include_router(events)
    add_state(router, access, watcher, file_storage)
    if file_storage is not None:
        add_outputs(router, access, file_storage)
    add_control(router, access, file_storage)
    return router
