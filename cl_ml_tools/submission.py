"""From uploads to a job, and the routes that do it in one line of a plugin."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar
from uuid import uuid4

from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter, UploadFile
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_leases import LeasingJobRepository
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import BaseJobParams, Job
from cl_ml_tools.errors import StoreUnavailableError, SubmissionTooLateError
from cl_ml_tools.file_names import distinct_name, safe_file_name
from cl_ml_tools.http_errors import ERROR_RESPONSES, ERROR_TRANSLATION
from cl_ml_tools.upload_form import USER, checked_files, form_signature, validated

logger = logging.getLogger(__name__)

ParamsT = TypeVar("ParamsT", bound=BaseJobParams)
T = TypeVar("T")


MAX_ASKING = 8
"""How many threads of a process call a repository that keeps leases at one time."""

_limiter = RunVar[CapacityLimiter]("cl_ml_tools.asking")


class JobAccepted(BaseModel):
    """The answer to an upload: the job is stored and will be done."""

    job_id: str = Field(description="Ask for the job by this id.")
    status: Literal["queued"] = "queued"


class RouteFactory(Protocol):
    """What an entry point of the group ``cl_ml_tools.routes`` names."""

    def __call__(
        self,
        repository: JobRepository,
        file_storage: FileStorage,
        get_current_user: Callable[..., Any],
        /,
    ) -> APIRouter:
        """Make the plugin's routes, without the application's prefix.

        Args:
            repository: takes the jobs.
            file_storage: takes the uploads.
            get_current_user: a FastAPI dependency; returns None, an object with ``id`` or a dict with it.
        """


def upload_route(
    task_type: str, schema: type[ParamsT], *, output_name: Callable[[str, ParamsT], str]
) -> Callable[[JobRepository, FileStorage, Callable[..., Any]], APIRouter]:
    """Make a plugin's route factory: ``POST /jobs/<task_type>`` takes files and makes one job of them.

    The form has ``file``, which may be repeated, ``priority`` and each field of the schema that a form can carry:
    text, numbers, booleans, choices, and lists of them. Nothing is stored before the schema has found everything valid.

    Args:
        task_type: the task that does the jobs.
        schema: the task's parameters.
        output_name: the name of an output file, from that of its upload and the parameters. Whatever it
            returns is reduced to a safe name, and numbered when another output has it.

    Raises:
        ValueError: a field of the schema is named ``file`` or ``priority``.
    """

    def create_router(
        repository: JobRepository, file_storage: FileStorage, get_current_user: Callable[..., Any]
    ) -> APIRouter:
        async def submit(file: list[UploadFile], priority: int, **values: Any) -> JobAccepted:
            creator = creator_of(values.pop(USER))
            files = checked_files(file)
            params = validated(schema, values, _distinct(upload.filename for upload in files))
            job_id = await submit_uploads(
                repository,
                file_storage,
                files,
                task_type=task_type,
                params=params,
                output_name=lambda name: output_name(name, params),
                created_by=creator,
                priority=priority,
            )
            return JobAccepted(job_id=job_id)

        submit.__name__ = f"submit_{task_type}"
        submit.__signature__ = form_signature(schema, get_current_user)  # type: ignore[attr-defined]
        router = APIRouter(dependencies=[ERROR_TRANSLATION])
        router.add_api_route(
            f"/jobs/{task_type}",
            submit,
            methods=["POST"],
            response_model=JobAccepted,
            responses=ERROR_RESPONSES,
            summary=f"Submit a job: {task_type}",
            description="Saves the file, or several, and queues one job for them. Follow the job by the id in "
            "the answer.",
            tags=["jobs"],
        )
        return router

    return create_router


async def submit_uploads(
    repository: JobRepository,
    file_storage: FileStorage,
    files: Sequence[UploadFile],
    *,
    task_type: str,
    params: BaseJobParams,
    output_name: Callable[[str], str],
    created_by: str | None,
    priority: int,
) -> str:
    """Save uploads, add one job for them and return the job's id.

    Inputs and outputs stand in the order of the uploads, and no two have one name. Files are left behind only with a
    job that uses them, or may be using them: when the store did not say whether it took the job, they stay.

    Args:
        repository: takes the job.
        file_storage: takes the uploads.
        files: the uploads, one or more.
        task_type: the task that does the job.
        params: its parameters, already valid; their paths are replaced.
        output_name: an output's name, from the name that its upload was saved under.
        created_by: whose job it is.
        priority: 0 to 10, higher is more urgent.

    Raises:
        Exception: what the storage or the repository raised, as it was.
    """
    job_id = str(uuid4())
    try:
        await run_in_threadpool(file_storage.create_job_directory, job_id)
        names = _distinct(file.filename for file in files)
        saved = [
            await file_storage.save_input_file(job_id, name, file)
            for name, file in zip(names, files, strict=True)
        ]
        outputs = await run_in_threadpool(file_storage.get_output_path, job_id)
        kept = [str(entry.get("filename") or name) for entry, name in zip(saved, names, strict=True)]
        paths = {
            "input_paths": [str(entry["path"]) for entry in saved],
            "output_paths": [str(outputs / name) for name in _distinct(map(output_name, kept))],
        }
        # By alias and round trip: the worker builds the same schema from it again.
        stored = params.model_copy(update=paths).model_dump(mode="json", by_alias=True, round_trip=True)
        job = Job(job_id=job_id, task_type=task_type, params=stored)
    except BaseException:
        # Also when the client is gone and the request is cancelled.
        await _discard(file_storage, job_id)
        raise
    # Once begun, the add is waited for even if the client is gone: its answer decides about the files.
    with CancelScope(shield=True):
        try:
            await ask(repository, lambda: repository.add_job(job, created_by=created_by, priority=priority))
        except SubmissionTooLateError:
            await _discard(file_storage, job_id)
            raise
        except StoreUnavailableError:
            logger.warning("Whether job %s was stored is unknown; its files stay", job_id)
            raise
        except Exception:
            if not await _may_be_stored(repository, job_id):
                await _discard(file_storage, job_id)
            raise
    return job_id


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


def _distinct(names: Iterable[str | None]) -> list[str]:
    """The names made safe, each unlike those before it: ``photo.png``, ``photo-2.png``."""
    distinct: list[str] = []
    for name in names:
        distinct.append(distinct_name(safe_file_name(name), distinct))
    return distinct


async def _may_be_stored(repository: JobRepository, job_id: str) -> bool:
    # Any database may be behind the repository, and its errors do not say whether the job was taken.
    try:
        return await ask(repository, lambda: repository.get_job(job_id)) is not None
    except Exception:
        logger.exception("Whether job %s was stored is unknown; its files stay", job_id)
        return True


async def _discard(file_storage: FileStorage, job_id: str) -> None:
    with CancelScope(shield=True):
        try:
            await run_in_threadpool(file_storage.cleanup_job, job_id)
        except Exception:
            # The error that brought us here is the one to tell.
            logger.exception("The files of job %s, which was not accepted, could not be removed", job_id)
