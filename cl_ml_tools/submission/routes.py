"""A plugin's route in one line: an upload becomes a job."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Annotated, Any, Protocol, TypeVar, cast

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from cl_ml_tools.common.file_storage import FileStorage, limits_of_uploads
from cl_ml_tools.common.job_control import AddsJobsOnce, TellsService
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import BaseJobParams, JobStatus
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.submission.accepting import accept_job
from cl_ml_tools.submission.asking import ask
from cl_ml_tools.submission.quota import quota_kept
from cl_ml_tools.submission.receiving import UploadRoute, receiver
from cl_ml_tools.submission.reception import Received, SavedUpload
from cl_ml_tools.submission.upload_form import (
    FROM_JOB,
    FROM_OUTPUT,
    MAX_UNKNOWN_FIELDS,
    checked_files,
    form_signature,
    validated,
)
from cl_ml_tools.web.errors import ERROR_RESPONSES, problem_responses

ParamsT = TypeVar("ParamsT", bound=BaseJobParams)

_RECEIVED = "_received"
_KEY = "_idempotency_key"
_RESPONSE = "_response"


class JobAccepted(BaseModel):
    """The answer to an upload: the job is stored and will be done."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"job_id": "4b4c8a0e-6f0f-4f3b-9d4c-0d6f5e1f2a3b", "status": "queued", "served": True}
            ]
        }
    )

    job_id: str = Field(description="Ask for the job by this id.")
    status: JobStatus = JobStatus.QUEUED
    served: bool | None = Field(
        default=None,
        description="Whether a live worker takes jobs of this type. If not, the job waits until one does. Left out "
        "when it is not known.",
    )
    ignored_fields: list[str] | None = Field(
        default=None,
        description="Fields and files that were sent under names that the form does not have, perhaps misspelt; the "
        f"first {MAX_UNKNOWN_FIELDS} of them. Left out when there are none.",
    )


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

    The form has ``file``, which may be repeated, ``priority`` and each field of the schema: text, numbers, booleans,
    choices, dates, and lists of them. Instead of ``file``, or beside it, ``from_job`` makes the
    outputs of another job inputs, before any file. Files go to the storage while they arrive; fields that come before
    them are checked first, and nothing stays unless the schema finds everything valid. A field that the form does not
    have is ignored, and the answer names it; with ``extra="forbid"`` in the schema's config it is refused.

    Args:
        task_type: the task that does the jobs.
        schema: the task's parameters.
        output_name: the name of an output file, from that of its upload and the parameters. When the schema expects
            more outputs than there are inputs, it is asked for each input again, in rounds: 1, 2, 1, 2. Whatever it
            returns is reduced to a safe name, and numbered when another output has it.

    The factory raises ValueError for a field that is named ``file``, ``from_job``, ``from_output`` or ``priority``, or
    that no form can carry, such as a model or a dict: make it ``Json[...]``, which is sent as JSON text, or write a
    route of your own with `submit_uploads`. So it does for one whose value would not reach the worker: a secret, which
    is stored as asterisks, or ``exclude=True``.
    """

    def create_router(
        repository: JobRepository, file_storage: FileStorage, get_current_user: Callable[..., Any]
    ) -> APIRouter:
        limits = limits_of_uploads(file_storage)

        async def submit(file: list[SavedUpload], priority: int, **values: Any) -> JobAccepted:
            received: Received = values.pop(_RECEIVED)
            response: Response = values.pop(_RESPONSE)
            for name in (FROM_JOB, FROM_OUTPUT):
                # Its files are among the others.
                values.pop(name)
            key: str | None = values.pop(_KEY, None)
            files = cast("list[SavedUpload]", checked_files(file))
            params = validated(schema, values, [upload.name for upload in files])
            async with quota_kept(repository, received.creator, limits):
                received.is_handed_over = True
                job_id = await accept_job(
                    repository,
                    file_storage,
                    [(upload.name, upload.saved) for upload in files],
                    job_id=received.job_id,
                    task_type=task_type,
                    params=params,
                    output_name=lambda name: output_name(name, params),
                    created_by=received.creator,
                    priority=priority,
                    idempotency_key=key,
                )
            served = await _is_served(repository, task_type)
            ignored = received.ignored_fields or None
            if job_id == received.job_id:
                return JobAccepted(job_id=job_id, served=served, ignored_fields=ignored)
            response.headers["Idempotent-Replayed"] = "true"
            job = await ask(repository, lambda: repository.get_job(job_id))
            status = JobStatus(job.status) if job else JobStatus.QUEUED
            return JobAccepted(job_id=job_id, status=status, served=served, ignored_fields=ignored)

        submit.__name__ = f"submit_{task_type}"
        submit.params_schema = schema  # type: ignore[attr-defined]  # for `GET /plugins`
        submit.task_type = task_type  # type: ignore[attr-defined]
        receive = receiver(schema, repository, file_storage, get_current_user)
        knows_again = isinstance(repository, AddsJobsOnce)
        form = form_signature(schema, limits.max_files)
        submit.__signature__ = _signature(form, receive, knows_again)  # type: ignore[attr-defined]
        router = APIRouter(route_class=UploadRoute)
        router.add_api_route(
            f"/jobs/{task_type}",
            submit,
            methods=["POST"],
            response_model=JobAccepted,
            response_model_exclude_none=True,
            responses={**ERROR_RESPONSES, **(_CONFLICTS if knows_again else _CONFLICT)},
            openapi_extra=_INPUTS_NEEDED,
            summary=f"Submit a job: {task_type}",
            description="Saves the file, or several, and queues one job for them. Follow the job by the id in "
            "the answer. Fields that stand before the files are checked before these are received. With `from_job` "
            "the job takes the outputs of another one: nothing needs to be uploaded.",
            tags=["jobs"],
        )
        return router

    return create_router


async def _is_served(repository: JobRepository, task_type: str) -> bool | None:
    if not isinstance(repository, TellsService):
        return None
    try:
        service = await ask(repository, repository.service)
    except StoreUnavailableError:
        # The job is accepted all the same.
        return None
    return service.workers.get(task_type, 0) > 0


_NOT_COMPLETED = "The job of `from_job` is not completed."
_UNKNOWN = problem_responses({404: "There is no job as `from_job` says."})
_CONFLICT = {**_UNKNOWN, **problem_responses({409: _NOT_COMPLETED})}
_CONFLICTS = {
    **_UNKNOWN,
    **problem_responses({409: f"The idempotency key was used for something else. {_NOT_COMPLETED}"}),
}

# Merged into what FastAPI says of the form, where neither field is required.
_INPUTS_NEEDED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"anyOf": [{"required": ["file"]}, {"required": [FROM_JOB]}]}}
        },
    }
}


def _signature(form: Signature, receive: Callable[..., Any], knows_again: bool) -> Signature:
    beside: dict[str, Any] = {
        # Ends before the answer is sent, and with it the files that no job has.
        _RECEIVED: Annotated[Received, Depends(receive, scope="function")],
        _RESPONSE: Response,
    }
    if knows_again:
        description = (
            "Any text of the client's. The same request under the same key, within a day, gives the same job; "
            "another request is answered with 409."
        )
        header = Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,255}$", description=description)
        beside[_KEY] = Annotated[str | None, header]
    keyword = Parameter.KEYWORD_ONLY
    more = [
        Parameter(name, keyword, annotation=kind, **({"default": None} if name == _KEY else {}))
        for name, kind in beside.items()
    ]
    return form.replace(parameters=[*form.parameters.values(), *more])
