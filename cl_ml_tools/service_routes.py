"""HTTP for whoever operates or explores the service: its plugins, and whether it works."""

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict, Field

from cl_ml_tools.common.file_storage import FileStorage, TellsRoom
from cl_ml_tools.common.job_control import Service, TellsService
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.errors import StorageFullError, StoreUnavailableError
from cl_ml_tools.registry import installed_route_names
from cl_ml_tools.submission import ask
from cl_ml_tools.web.errors import UNAVAILABLE, ProblemRoute

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_SECONDS = 5.0
"""How long a part of the service is given to answer."""


class PluginView(BaseModel):
    """A task that takes uploads.

    Attributes:
        task_type: its name; uploads go to ``jobs/<task_type>``.
        params_schema: its parameters as JSON schema; null for a route that does not tell.
        workers: how many live workers take its jobs; null when that is not known.
        served: whether any does.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task_type": "image_resize",
                    "params_schema": {"properties": {"width": {"type": "integer"}}, "type": "object"},
                    "workers": 2,
                    "served": True,
                }
            ]
        }
    )

    task_type: str
    params_schema: dict[str, Any] | None
    workers: int | None
    served: bool | None


class Alive(BaseModel):
    """The process answers."""

    alive: bool = True


class Readiness(BaseModel):
    """Whether jobs are taken, and done.

    Attributes:
        ready: whether all is well.
        faults: what is not, each in a sentence.
        workers: by task type, how many live workers take its jobs.
        oldest_wait_seconds: how long the oldest job waits that may start; null when none waits.
    """

    ready: bool
    faults: list[str] = Field(default_factory=list)
    workers: dict[str, int] = Field(default_factory=dict)
    oldest_wait_seconds: float | None = None


def create_service_router(
    repository: JobRepository,
    get_current_user: Callable[..., Any],
    *,
    plugins: APIRouter,
    file_storage: FileStorage | None = None,
    max_wait_seconds: float = 600.0,
) -> APIRouter:
    """The routes ``/plugins``, ``/health/live`` and ``/health/ready``, to be included in any app.

    Args:
        repository: any repository; one that is a `TellsService` says who serves it.
        get_current_user: any FastAPI dependency, asked for ``/plugins``; the others are open.
        plugins: what `cl_ml_tools.master.create_master_router` has made.
        file_storage: has the jobs' files; one that is a `TellsRoom` makes the service not ready when it takes none.
        max_wait_seconds: a job that waits longer makes the service not ready.
    """
    router = APIRouter(tags=["service"], route_class=ProblemRoute)
    schemas = _schemas(plugins)

    @router.get("/plugins", summary="What can be done", responses=UNAVAILABLE)
    async def list_plugins(_: Annotated[Any, Depends(get_current_user)]) -> list[PluginView]:
        """The tasks that take uploads, with their parameters, and whether a live worker does their jobs."""
        service = await ask(repository, repository.service) if isinstance(repository, TellsService) else None
        return [
            PluginView(
                task_type=name,
                params_schema=schema,
                workers=None if service is None else service.workers.get(name, 0),
                served=None if service is None else service.workers.get(name, 0) > 0,
            )
            for name, schema in schemas.items()
        ]

    @router.get("/health/live", summary="Whether the master answers")
    async def live() -> Alive:
        return Alive()

    @router.get(
        "/health/ready",
        summary="Whether jobs are taken and done",
        responses={503: {"model": Readiness, "description": "Something is wrong; `faults` says what."}},
    )
    async def ready(response: Response) -> Readiness:
        """Redis and the broker answer, uploads and jobs are taken, each task has a worker that consumes, and no job
        waits for too long."""
        readiness = await _readiness(repository, sorted(schemas), max_wait_seconds)
        if fault := await _storage_fault(file_storage):
            readiness = readiness.model_copy(update={"ready": False, "faults": [*readiness.faults, fault]})
        if not readiness.ready:
            response.status_code = 503
        response.headers["Cache-Control"] = "no-store"
        return readiness

    return router


async def _readiness(repository: JobRepository, task_types: list[str], max_wait_seconds: float) -> Readiness:
    if not isinstance(repository, TellsService):
        return Readiness(ready=True)
    faults: list[str] = []
    service, fault, broker_fault = await asyncio.gather(
        _service(repository), _record_fault(repository), _broker_fault(repository)
    )
    if service is not None and fault:
        faults.append(fault)
    if service is None:
        faults.append("The store of job records does not answer.")
        service = Service({}, None)
    else:
        unserved = [name for name in task_types if not service.workers.get(name)]
        faults += [f"No live worker takes jobs of type {name!r}." for name in unserved]
    if broker_fault:
        faults.append(broker_fault)
    waited = service.oldest_wait_seconds
    if waited is not None and waited > max_wait_seconds:
        faults.append(f"The oldest queued job waits for {waited:.0f} s; {max_wait_seconds:g} s is the limit.")
    return Readiness(
        ready=not faults, faults=faults, workers=dict(service.workers), oldest_wait_seconds=waited
    )


async def _in_time(question: Callable[[], T]) -> T:
    """What ``question`` returns, asked in a thread; a TimeoutError after `CHECK_SECONDS`."""
    async with asyncio.timeout(CHECK_SECONDS):
        return await to_thread.run_sync(question, abandon_on_cancel=True)


async def _service(repository: TellsService) -> Service | None:
    try:
        return await _in_time(repository.service)
    except (StoreUnavailableError, TimeoutError):
        return None


async def _record_fault(repository: TellsService) -> str | None:
    try:
        await _in_time(repository.check_takes_jobs)
    except (StoreUnavailableError, TimeoutError) as error:
        return f"The store of job records takes no jobs: {str(error) or 'it does not answer'}"
    return None


async def _storage_fault(storage: object) -> str | None:
    if not isinstance(storage, TellsRoom):
        return None
    try:
        await _in_time(storage.check_takes_uploads)
    except (StorageFullError, OSError) as error:
        # A time-out is an OSError, too: a share whose server is away hangs.
        return f"The storage takes no uploads: {str(error) or 'it does not answer'}"
    return None


async def _broker_fault(repository: TellsService) -> str | None:
    try:
        await _in_time(repository.reach_broker)
    except Exception:  # any driver may be behind it, with errors of its own
        logger.warning("the broker cannot be reached", exc_info=True)
        return "The broker does not answer."
    return None


def _schemas(plugins: APIRouter) -> dict[str, dict[str, Any] | None]:
    """By task type the JSON schema of its parameters, as far as the plugin's route tells it."""
    schemas: dict[str, dict[str, Any] | None] = dict.fromkeys(installed_route_names())
    for route in iter_route_contexts(plugins.routes):
        schema = getattr(route.endpoint, "params_schema", None)
        if schema is not None:
            described = schema.model_json_schema()
            # The service sets these itself.
            for name in ("input_paths", "output_paths"):
                described.get("properties", {}).pop(name, None)
            schemas[getattr(route.endpoint, "task_type", "")] = described
    return dict(sorted(schemas.items()))
