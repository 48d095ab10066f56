"""What strangers bring: distributions with plugins, a repository of jobs in memory."""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cl_ml_tools import Job


def install_distribution(
    monkeypatch: pytest.MonkeyPatch,
    site: Path,
    name: str,
    *,
    version: str = "1.0",
    tasks: Mapping[str, str] | None = None,
    routes: Mapping[str, str] | None = None,
    modules: Mapping[str, str] | None = None,
    extras: tuple[str, ...] = (),
) -> None:
    """Put a distribution with these entry points and modules into ``site``, and ``site`` on the path."""
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    offered = "".join(f"Provides-Extra: {extra}\n" for extra in extras)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{offered}")
    lines = []
    for group, points in (("cl_ml_tools.tasks", tasks), ("cl_ml_tools.routes", routes)):
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in (points or {}).items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for module, source in (modules or {}).items():
        (site / f"{module}.py").write_text(source)
        # Not left behind for the next test, whose module of the same name lies elsewhere.
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(site))


def task_module(task_type: str, class_name: str = "Task") -> str:
    """The source of a module with a task."""
    return f"""
from cl_ml_tools import BaseJobParams, ComputeModule

class {class_name}(ComputeModule):
    @property
    def task_type(self):
        return {task_type!r}

    def get_schema(self):
        return BaseJobParams

    async def execute(self, job, params, progress_callback=None):
        return {{"status": "ok", "task_output": {{}}}}
"""


class MemoryRepository:
    """Jobs in a dictionary; keeps who added what, and in which thread."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.creators: dict[str, str | None] = {}
        self.priorities: dict[str, int] = {}
        self.threads: set[str] = set()

    def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
        self.threads.add(threading.current_thread().name)
        self.jobs[job.job_id] = job
        self.creators[job.job_id] = created_by
        self.priorities[job.job_id] = 5 if priority is None else priority
        return job.job_id

    def get_job(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)

    def update_job(self, job_id: str, **fields: Any) -> bool:
        if job_id not in self.jobs:
            return False
        self.jobs[job_id] = self.jobs[job_id].model_copy(update=fields)
        return True

    def fetch_next_job(self, task_types: list[str]) -> Job | None:
        queued = [job for job in self.jobs.values() if job.status == "queued" and job.task_type in task_types]
        if not queued:
            return None
        self.update_job(queued[0].job_id, status="processing")
        return self.jobs[queued[0].job_id]

    def delete_job(self, job_id: str) -> bool:
        return self.jobs.pop(job_id, None) is not None

    @property
    def only_job(self) -> Job:
        (job,) = self.jobs.values()
        return job
