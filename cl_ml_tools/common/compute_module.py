"""The contract of a task: the code that does a job."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic

from typing_extensions import TypeVar

from cl_ml_tools.common.schemas import BaseJobParams, Job

ProgressCallback = Callable[[int], None]
"""Takes percent done. Cheap: call it as often as you like, from any thread of the plugin."""

# Any as default, so that a task written as `class T(ComputeModule)` may narrow `params` as it likes.
ParamsT = TypeVar("ParamsT", bound=BaseJobParams, default=Any)


class ComputeModule(ABC, Generic[ParamsT]):
    """One task type. An instance is made per process and serves many jobs, so it holds models, not jobs."""

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
