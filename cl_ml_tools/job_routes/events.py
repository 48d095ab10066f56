"""Following jobs: server-sent events."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import BrokenResourceError
from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.job_watcher import JobEvent, JobsWatcher, JobWatcher
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.job_routes.access import JobAccess
from cl_ml_tools.job_routes.state import UNKNOWN_JOB
from cl_ml_tools.job_routes.views import JobChange
from cl_ml_tools.submission import Viewer, ask
from cl_ml_tools.web.errors import ProblemRoute, problem_responses

logger = logging.getLogger(__name__)

LastEventId = Annotated[str | None, Header(pattern=r"^\d{1,20}(-\d{1,20})?$")]


def add_events(router: APIRouter, access: JobAccess, watcher: JobWatcher) -> None:
    """Add ``GET /jobs/{job_id}/events``, and ``GET /jobs/events`` when the watcher follows all jobs of a creator."""
    repository = access.repository
    outcomes = _Outcomes(repository)

    async def told(event: JobEvent, known: JobStatus | None) -> ServerSentEvent:
        change = JobChange(job_id=event.job_id, status=event.status, progress=event.progress)
        if event.deleted:
            return ServerSentEvent(event="deleted", id=event.event_id, data=change)
        if event.status.is_terminal:
            ended = await outcomes.of(event)
            if ended is not None:
                change.task_output, change.error_message = ended.task_output, ended.error_message
        name = "progress" if event.status is known else "status"
        return ServerSentEvent(event=name, id=event.event_id, data=change)

    if isinstance(watcher, JobsWatcher):
        jobs_watcher: JobsWatcher = watcher

        async def beginning(last_event_id: LastEventId = None) -> str:
            # A dependency, because after the stream has begun a 503 is impossible.
            return last_event_id or await jobs_watcher.position()

        @router.get(
            "/jobs/events",
            response_class=EventSourceResponse,
            responses=problem_responses({422: "A value is not valid."}),
            summary="Follow all jobs",
            description=(
                "Server-sent events of all jobs that the user sees, in order, without an end: as those of one job. "
                "The first one is `open`; what happens after it is told, so list the jobs then. A client that comes "
                "back with `Last-Event-ID` misses no change of status; after very many events it is told how each job "
                "stands that has changed."
            ),
        )
        async def follow_jobs(
            viewer: Annotated[Viewer, access.viewer], after: Annotated[str, Depends(beginning)]
        ) -> AsyncIterator[ServerSentEvent]:
            yield ServerSentEvent(event="open", id=after, data={})
            known: dict[str, JobStatus] = {}
            async for event in jobs_watcher.watch_jobs(
                after=after, created_by=viewer.creator, of_anybody=viewer.is_admin
            ):
                yield await told(event, known.get(event.job_id))
                if event.is_last:
                    known.pop(event.job_id, None)
                else:
                    known[event.job_id] = event.status

    @router.get(
        "/jobs/{job_id}/events",
        response_class=EventSourceResponse,
        responses=UNKNOWN_JOB,
        summary="Follow a job",
        description=(
            "Server-sent events: `status` when the job's status has changed, `progress` when only its "
            "progress has. The first one says how the job stands now; the stream ends with the job's "
            "terminal status. A client that comes back with `Last-Event-ID` misses no change of status."
        ),
    )
    async def follow_job(
        job: Annotated[Job, access.job], last_event_id: LastEventId = None
    ) -> AsyncIterator[ServerSentEvent]:
        known: JobStatus | None = None
        async for event in watcher.watch(job.job_id, after=last_event_id):
            yield await told(event, known)
            known = event.status


class EventsRoute(ProblemRoute):
    """A route whose clients may go at any moment, without an error in the server's log.

    FastAPI lets an exception of its own out when a client goes while an event is on its way to it.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see the class."""
        try:
            await super().handle(scope, receive, send)
        except* BrokenResourceError:
            logger.debug("a client went while it was told of jobs")


class _Outcomes:
    """Reads what a job has come to, once for all who are told of it at the same time."""

    def __init__(self, repository: JobRepository) -> None:
        self._repository = repository
        self._reading: dict[str, asyncio.Task[Job | None]] = {}

    async def of(self, event: JobEvent) -> Job | None:
        reading = self._reading.get(event.event_id)
        if reading is None:
            reading = asyncio.create_task(
                ask(self._repository, lambda: self._repository.get_job(event.job_id))
            )
            self._reading[event.event_id] = reading
            reading.add_done_callback(lambda _: self._reading.pop(event.event_id, None))
        # Shielded: a client that goes away must not take the answer from the others.
        return await asyncio.shield(reading)
