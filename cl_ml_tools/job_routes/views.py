"""Jobs as clients see them."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from cl_ml_tools.common.schemas import AttemptEnd, Job, JobStatus

_JOB: dict[str, JsonValue] = {
    "job_id": "4b4c8a0e-6f0f-4f3b-9d4c-0d6f5e1f2a3b",
    "task_type": "image_resize",
    "params": {
        "input_paths": ["/srv/media/jobs/4b4c8a0e-6f0f-4f3b-9d4c-0d6f5e1f2a3b/input/cat.png"],
        "output_paths": ["/srv/media/jobs/4b4c8a0e-6f0f-4f3b-9d4c-0d6f5e1f2a3b/output/resized_cat.png"],
        "width": 640,
        "height": 480,
    },
    "status": "completed",
    "progress": 100,
    "task_output": {"dimensions": {"width": 640, "height": 480}},
    "error_message": None,
    "priority": 5,
    "attempt": 1,
    "history": [],
    "created_at": 1795420800000,
    "started_at": 1795420800120,
    "finished_at": 1795420801450,
}
_OUTPUT: dict[str, JsonValue] = {"name": "resized_cat.png", "size": 48213, "media_type": "image/png"}


def _writable(value: Any) -> Any:
    """``value`` as UTF-8 can carry it: names of files may hold lone surrogates, however deep."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value


_JsonObject = Annotated[dict[str, Any], AfterValidator(_writable)]


class OutputSummary(BaseModel):
    """A file that a job has made.

    Attributes:
        name: what to ask for below ``outputs/``.
        size: bytes.
        media_type: its type, by its name.
    """

    name: str
    size: int
    media_type: str


class OutputView(OutputSummary):
    """A file that a job has made, with its SHA-256 as 64 hex digits, which is its ETag too."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_OUTPUT, "sha256": "9f86d081884c7d65" * 4}]})

    sha256: str


class JobView(Job):
    """A job as a client sees it. What the repository does not know is null.

    Times are milliseconds since 1970. ``outputs`` is null in lists of jobs, and until the job is completed.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{**_JOB, "outputs": [_OUTPUT]}]})

    params: _JsonObject
    task_output: _JsonObject | None = None
    priority: int | None = None
    attempt: int | None = None
    history: list[AttemptEnd] = Field(default_factory=list)
    created_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    outputs: list[OutputSummary] | None = None


class JobList(BaseModel):
    """Jobs, newest first. ``next`` asks for the page behind this one, as ``cursor``; null when there is none.

    A page can be short, even empty, and not be the last.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"jobs": [{**_JOB, "outputs": None}], "next": f"{_JOB['created_at']}.{_JOB['job_id']}"}
            ]
        }
    )

    jobs: list[JobView]
    next: str | None


class JobChange(BaseModel):
    """The data of a server-sent event. Output and message come with the terminal one."""

    model_config = ConfigDict(validate_assignment=True)

    job_id: str
    status: JobStatus
    progress: int
    task_output: _JsonObject | None = None
    error_message: str | None = None
