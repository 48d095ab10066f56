"""A task that does nothing but report progress once."""

from typing import Any

from benchmarks.noop_plugin.started import tell_start
from cl_ml_tools import BaseJobParams, ComputeModule, Job
from cl_ml_tools.common.compute_module import ProgressCallback


class NoopTask(ComputeModule[BaseJobParams]):
    @property
    def task_type(self) -> str:
        return "noop"

    def get_schema(self) -> type[BaseJobParams]:
        return BaseJobParams

    async def execute(
        self, job: Job, params: BaseJobParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        tell_start()
        if progress_callback:
            progress_callback(50)
        return {"status": "ok", "task_output": {}}
