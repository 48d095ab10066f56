"""The contract of a task: the code that does a job."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic

from typing_extensions import TypeVar

from cl_ml_tools.common.schemas import BaseJobParams, Job

ProgressCallback = Callable[[int], None]
"""Takes percent done. Cheap: call it as often as you like, from any thread of the plugin."""

TASK_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a task type may be, whole: it is part of paths, queues and keys."""

# Any as default, so that a task written as `class T(ComputeModule)` may narrow `params` as it likes.
ParamsT = TypeVar("ParamsT", bound=BaseJobParams, default=Any)


class ComputeModule(ABC, Generic[ParamsT]):
    """One task type. An instance is made per process and serves many jobs, so it holds models, not jobs.

    The attributes have Celery's names and meanings; times are in seconds.

    Attributes:
        soft_time_limit: when a run is told to clean up; None takes the setting.
        time_limit: when a run is ended; None takes the setting.
        autoretry_for: exceptions that are worth another try. All others are final.
        dont_autoretry_for: exceptions among those that are final all the same.
        max_retries: how many tries follow the first one; None means any number.
        default_retry_delay: how long the next try waits when there is no backoff.
        retry_backoff: True or a factor: the next try waits factor * 2**n, n = 0, 1, ... (True is 1).
        retry_backoff_max: upper bound of that wait.
        retry_jitter: whether that wait is drawn at random between 0 and its value.
    """

    soft_time_limit: float | None = None
    time_limit: float | None = None
    autoretry_for: tuple[type[Exception], ...] = ()
    dont_autoretry_for: tuple[type[Exception], ...] = ()
    max_retries: int | None = 3
    default_retry_delay: float = 180.0
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True

    @property
    @abstractmethod
    def task_type(self) -> str:
        """The name under which jobs ask for this task; the same for every instance."""

    @abstractmethod
    def get_schema(self) -> type[ParamsT]:
        """The model that a job's parameters are validated with before `execute` is called."""

    @abstractmethod
    async def execute(
        self, job: Job, params: ParamsT, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Do the job.

        It may block: it has the event loop of its process or pool thread to itself. The parents of
        ``params.output_paths`` exist; the files appear at the paths that the job names when, and only when,
        this returns ok.

        Args:
            job: the job, as it was claimed.
            params: its validated parameters.
            progress_callback: takes percent done. It may raise `cl_ml_tools.errors.JobStopped`, which must
                be let through.

        Returns:
            ``{"status": "ok", "task_output": {...}}`` with what JSON can hold, or
            ``{"status": "error", "error": "why"}``.
        """
