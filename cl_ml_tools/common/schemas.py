"""Jobs and their parameters."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cl_ml_tools.common.output_planning import planned_outputs


class JobStatus(StrEnum):
    """Where a job stands. ``completed``, ``error`` and ``cancelled`` are terminal."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this status is at its end."""
        return self in (JobStatus.COMPLETED, JobStatus.ERROR, JobStatus.CANCELLED)


class Job(BaseModel):
    """A request and its state. Can be read from the attributes of any object, and subclassed.

    ``status`` is held as a plain string, so that any database driver can bind it.

    Attributes:
        job_id: the id chosen by whoever submits.
        task_type: the name of the task that does it.
        params: the task's parameters, as JSON values.
        status: one of the values of `JobStatus`.
        progress: percent, 0 to 100; at most 99 until the job is completed.
        task_output: what the task returned, once completed.
        error_message: why it failed or was cancelled.
    """

    model_config = ConfigDict(from_attributes=True, use_enum_values=True, validate_default=True)

    job_id: str
    task_type: str
    params: dict[str, Any]
    status: JobStatus = JobStatus.QUEUED
    progress: int = Field(default=0, ge=0, le=100)
    task_output: dict[str, Any] | None = None
    error_message: str | None = None


class AttemptEnd(BaseModel):
    """How an attempt ended that did not finish its job.

    Attributes:
        attempt: which one, from 1.
        at: when, milliseconds since 1970 by the store's clock.
        node: the worker's main process that had it.
        cause: ``crashed`` (the process died), ``lost`` (the lease ended with its node), ``failed``
            (worth another try) or ``timed_out``.
        detail: what is known of it.
    """

    attempt: int
    at: int
    node: str
    cause: str
    detail: str = ""


class JobRecord(Job):
    """A job as a store keeps it: the job, and what happened to it.

    Times are milliseconds since 1970 by the store's clock.

    Attributes:
        created_by: whose job it is, or None.
        priority: 0 to 10, higher is more urgent.
        attempt: how often it was started.
        node: the id of the worker's main process that runs it, or ran it last; None while it is queued.
        crashes: how often the process that ran it died.
        leases_lost: how often it was lost together with its node.
        history: how each attempt that did not finish the job ended, oldest first; of more than 20 the first 9 and the
            latest 11.
        failures: how often its plugin failed in a way that was worth another try.
        retries: how often a person asked for another try.
        due_at: when its next try, or its earliest start, comes; None when it waits for nothing but a worker.
        expires_at: when it is cancelled if it has not started, or None.
        cancel_requested: whether a cancel waits to be obeyed by the run.
        created_at: when it was accepted.
        started_at: when its latest attempt began, or None.
        finished_at: when it reached its terminal status, or None.
        event_id: the id of its latest event.
    """

    created_by: str | None = None
    priority: int = Field(default=5, ge=0, le=10)
    attempt: int = 0
    node: str | None = None
    crashes: int = 0
    leases_lost: int = 0
    failures: int = 0
    retries: int = 0
    history: list[AttemptEnd] = Field(default_factory=list)
    due_at: int | None = None
    expires_at: int | None = None
    cancel_requested: bool = False
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    event_id: str


MAX_NESTING = 100
"""How deep parameters and outputs may be nested. Pydantic, which writes them into answers, ends at about 250."""


def check_nesting(value: object) -> None:
    """Check that lists and dicts are not nested too deep.

    Raises:
        ValueError: they are.
    """
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_NESTING} levels")


class BaseJobParams(BaseModel):
    """What every task's parameters have: where to read and where to write.

    Attributes:
        input_paths: absolute paths of the inputs.
        output_paths: absolute paths of the outputs, all different; when inputs are given too, as many as
            `expected_output_count` says.
    """

    input_paths: list[str] = Field(default_factory=list)
    output_paths: list[str] = Field(default_factory=list)

    def expected_output_count(self) -> int:
        """How many outputs go with these inputs: one for each.

        A plugin that makes one of many, or many of one, overrides it. It is asked of valid values.
        """
        return len(self.input_paths)

    @model_validator(mode="after")
    def _paths_match(self) -> Self:
        plan = planned_outputs.get()
        if plan and self.input_paths and not self.output_paths:
            # Not assigned: that would validate again, or be refused, where the schema's config says so.
            self.__dict__["output_paths"] = plan(self.expected_output_count())
        if len(set(self.output_paths)) != len(self.output_paths):
            raise ValueError("Output paths must be unique")
        expected = self.expected_output_count()
        if self.input_paths and self.output_paths and len(self.output_paths) != expected:
            rule = "match that of input_paths" if expected == len(self.input_paths) else f"be {expected}"
            raise ValueError(
                f"The number of output_paths must {rule}: "
                f"{len(self.output_paths)} given for {len(self.input_paths)}"
            )
        return self
