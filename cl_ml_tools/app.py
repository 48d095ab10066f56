"""Assembly: the one room that knows which classes make up an application."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from celery import Celery

from cl_ml_tools import __version__
from cl_ml_tools.celery_bridge import CeleryJobRepository, PacedEventsStep, install
from cl_ml_tools.celery_bridge.configuration import celery_configuration
from cl_ml_tools.common.file_storage import UploadLimits
from cl_ml_tools.errors import SettingsError, StorageMismatchError, StoreUnavailableError
from cl_ml_tools.settings import Settings
from cl_ml_tools.storage_tie import check_storage
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

FORM_BYTES = 1_000_000
"""What a request may hold beside its files."""


def create_storage(settings: Settings | None = None) -> LocalFileStorage:
    """The storage of the jobs' files, under ``storage_dir``, which is made when it is not there.

    Raises:
        SettingsError: it cannot be made.
    """
    settings = settings or Settings.from_environment()
    try:
        return LocalFileStorage(
            settings.storage_dir,
            max_file_bytes=settings.max_upload_bytes,
            min_free_bytes=settings.min_free_bytes,
            upload_limits=UploadLimits(
                max_files=settings.max_files,
                max_request_bytes=settings.max_request_bytes,
                max_unfinished_jobs=settings.max_unfinished_jobs,
            ),
        )
    except OSError as error:
        raise SettingsError(
            f"CL_ML_TOOLS_STORAGE_DIR = {str(settings.storage_dir)!r}: the directory cannot be made "
            f"({error.strerror}: {error.filename}). Name one that can, and let this user write there."
        ) from error


def create_celery_app(settings: Settings | None = None) -> Celery:
    """A Celery app whose workers run the jobs of the task types installed on their node.

    The limits of pictures (``max_picture_pixels``, ``max_picture_frames``) are not taken from ``settings``: the plugins
    read them from the environment of the worker's process.
    """
    return _create_celery(settings or Settings.from_environment())[0]


def create_repository(settings: Settings | None = None) -> CeleryJobRepository:
    """The repository of jobs, on a Celery app of its own that only sends."""
    return _create_celery(settings or Settings.from_environment())[1]


def create_app(settings: Settings | None = None) -> "FastAPI":
    """The master: the routes of all installed plugins and of jobs, under ``/api``.

    Raises:
        PluginLoadError: a plugin's routes cannot be loaded.
    """
    # Workers import this module too, and need no FastAPI.
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException

    from cl_ml_tools.job_routes import create_job_router
    from cl_ml_tools.master import create_master_router
    from cl_ml_tools.service_routes import create_service_router
    from cl_ml_tools.stores.redis_watcher import RedisJobWatcher
    from cl_ml_tools.web.access import add_headers, describe_refusals, user_dependency
    from cl_ml_tools.web.errors import answer_with_problem
    from cl_ml_tools.web.head_requests import HeadAsGet
    from cl_ml_tools.web.slow_bodies import BodyTimeout

    settings = settings or Settings.from_environment()
    _log_with_time()
    repository = create_repository(settings)
    watcher = RedisJobWatcher(
        settings.redis_url, prefix=settings.key_prefix, timeout_seconds=settings.redis_timeout_seconds
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(_check_belonging, repository, storage)
        try:
            yield
        finally:
            await watcher.close()
            repository.close()

    get_current_user, is_admin = user_dependency(settings)
    app = FastAPI(
        title="cl_ml_tools",
        version=__version__,
        description="Upload a file to a task, follow its job, fetch what comes out.",
        lifespan=lifespan,
        # Beyond it also the routes of strangers stop.
        max_body_size=settings.max_request_bytes + FORM_BYTES,
    )
    storage = create_storage(settings)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyTimeout, seconds=settings.slow_client_seconds)
    add_headers(app, settings)
    app.add_exception_handler(HTTPException, answer_with_problem)
    plugins = create_master_router(repository, storage, get_current_user, is_admin=is_admin)
    app.include_router(plugins, prefix="/api")
    app.include_router(
        create_service_router(repository, get_current_user, plugins=plugins, file_storage=storage),
        prefix="/api",
    )
    app.include_router(
        create_job_router(
            repository, get_current_user, watcher=watcher, file_storage=storage, is_admin=is_admin
        ),
        prefix="/api",
    )
    # Behind all others; without it the path is known as that of a job, and the answer a bare 405.
    app.add_api_route(
        "/api/jobs/{task_type}", _refuse_unknown_task, methods=["POST"], include_in_schema=False
    )
    describe_refusals(app)
    return app


def _log_with_time() -> None:
    """uvicorn configures its own loggers only: what the master says would come bare, and below a warning not at all."""
    ours = logging.getLogger("cl_ml_tools")
    if logging.root.handlers or ours.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


async def _refuse_unknown_task(task_type: str) -> None:
    from starlette.exceptions import HTTPException

    raise HTTPException(404, f"There is no task {task_type!r} here. GET /api/plugins tells which there are.")


def _check_belonging(repository: CeleryJobRepository, storage: LocalFileStorage) -> None:
    try:
        repository.check_broker()
        if complaint := check_storage(storage, repository.store):
            logger.error(complaint)
    except StoreUnavailableError as error:
        logger.warning("starting although the record cannot be reached: %s", error)
    except StorageMismatchError as error:
        logger.error("starting although workers may not find what is uploaded here. %s", error)


def _create_celery(settings: Settings) -> tuple[Celery, CeleryJobRepository]:
    app = Celery("cl_ml_tools")
    app.conf.update(celery_configuration(settings))
    app.steps["consumer"].add(PacedEventsStep)
    store = RedisJobStore(
        settings.redis_url,
        prefix=settings.key_prefix,
        timeout_seconds=settings.redis_timeout_seconds,
        max_crashes=settings.max_crashes,
    )
    return app, install(app, store, storage=create_storage(settings), settings=settings, consume=True)
