"""Running picture tasks in tests."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_ml_tools import ComputeModule, Job


def run(
    task: ComputeModule[Any],
    inputs: Path | Sequence[Path],
    outputs: Path | Sequence[Path],
    progress: Any = None,
    **asked: Any,
) -> dict[str, Any]:
    """Have the task do a job, and return its task_output."""
    sources, targets = ([paths] if isinstance(paths, Path) else list(paths) for paths in (inputs, outputs))
    paths = {"input_paths": list(map(str, sources)), "output_paths": list(map(str, targets))}
    params = task.get_schema().model_validate({**asked, **paths})
    job = Job(job_id="j", task_type=task.task_type, params={})
    result = asyncio.run(task.execute(job, params, progress))
    assert result["status"] == "ok"
    output: dict[str, Any] = result["task_output"]
    return output


def only_report(output: dict[str, Any]) -> dict[str, Any]:
    """The one report of a job with one output."""
    (report,) = output["files"]
    assert output["processed_files"] == [report["output_path"]]
    assert not output["partly_failed"]
    return dict(report)
