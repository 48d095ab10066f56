"""Runs a plugin without Celery, HTTP or Redis, and checks what every plugin must do."""

import asyncio
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cl_ml_tools.common.compute_module import TASK_TYPE, ComputeModule
from cl_ml_tools.common.job_leases import Claim, Outcome, RunState
from cl_ml_tools.common.schemas import BaseJobParams, Job, JobStatus
from cl_ml_tools.errors import JobStopped
from cl_ml_tools.execution import Execution, RetryLater, limits_of
from cl_ml_tools.settings import Settings


@dataclass(frozen=True, slots=True)
class PluginRun:
    """What a run of a plugin came to.

    Attributes:
        status: ``completed``, ``error`` or ``cancelled``.
        task_output: what it returned, when completed.
        error_message: why it was not completed.
        is_worth_retrying: whether it failed with one of its ``autoretry_for``.
        progress: all that it reported, in order.
        unread: what nobody reads of its result, as a message; empty when there is nothing.
    """

    status: JobStatus
    task_output: dict[str, Any] | None
    error_message: str | None
    is_worth_retrying: bool
    progress: list[float]
    unread: str = ""


class _Recorder:
    """A run's monitor that keeps what is reported; with ``stops_at`` it cancels at that report."""

    def __init__(self, stops_at: int | None) -> None:
        self._stops_at = stops_at
        self.reported: list[float] = []
        self.stop_state: RunState | None = None
        self.on_stop: Callable[[], None] = lambda: None

    def report(self, percent: float) -> None:
        self.reported.append(percent)
        if self._stops_at is not None and len(self.reported) >= self._stops_at:
            self.stop_state = RunState.STOPPING
            raise JobStopped("stopped by its test")

    def flush(self) -> None: ...

    def confirm(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


async def run_plugin(
    module: ComputeModule[Any],
    params: Mapping[str, Any] | BaseJobParams,
    *,
    cancel_at_report: int | None = None,
) -> PluginRun:
    """Run one job as a worker does: validation, outputs that are complete or absent, errors as outcomes.

    Args:
        module: the plugin's task.
        params: the job's parameters, with absolute paths.
        cancel_at_report: cancel the job at this report of progress, 1 being the first.
    """
    values = params.model_dump(mode="json") if isinstance(params, BaseJobParams) else dict(params)
    job = Job(job_id=f"test-{secrets.token_hex(4)}", task_type=module.task_type, params=values)
    recorder = _Recorder(cancel_at_report)
    limits = limits_of(module, Settings.from_environment({}))
    with Execution(module, Claim(job, secrets.token_hex(8)), recorder, limits=limits) as execution:
        ended = await execution.run()
    if isinstance(ended, RetryLater):
        return PluginRun(JobStatus.ERROR, None, ended.detail, True, recorder.reported)
    assert isinstance(ended, Outcome)
    return PluginRun(
        ended.status, ended.task_output, ended.error_message, False, recorder.reported, execution.unread
    )


def check_plugin(
    module: ComputeModule[Any], params: Mapping[str, Any] | BaseJobParams, *, extra_outputs: bool = False
) -> PluginRun:
    """Run a job that must succeed, and check what every plugin must do; returns the first run.

    That is: its task type is a plain name and the same for every instance; its schema is a `BaseJobParams`; all
    its output files are there, and nothing else beside them unless that is allowed; its inputs are as they were;
    its progress is 0 to 100 and does not go back; its output is JSON and tells no path of an attempt; its result
    has no key that nobody reads; a second job on the same instance does the same; and a cancel at its first
    report stops it without outputs.

    Args:
        module: the plugin's task.
        params: of the job: inputs that exist, outputs that do not.
        extra_outputs: whether it may write more files beside its outputs.

    Raises:
        AssertionError: it does not; the message says what.
    """
    _check_description(module)
    values = params.model_dump(mode="json") if isinstance(params, BaseJobParams) else dict(params)
    inputs = [Path(path) for path in values.get("input_paths", [])]
    outputs = [Path(path) for path in values.get("output_paths", [])]
    before = {path: path.read_bytes() for path in inputs}
    beside = {entry for path in outputs if path.parent.exists() for entry in path.parent.iterdir()}
    for path in outputs:
        assert not path.exists(), f"{path} exists before the run: give an output path that is free"

    run = _run_and_check(module, values, outputs, beside, before, extra_outputs)
    _take_away(_written(outputs, beside))
    again = _run_and_check(module, values, outputs, beside, before, extra_outputs)
    assert again.task_output is not None
    assert again.task_output.keys() == (run.task_output or {}).keys(), "a second job's output has other keys"

    if run.progress:
        kept = _take_away(_written(outputs, beside))
        stopped = asyncio.run(run_plugin(module, values, cancel_at_report=1))
        assert stopped.status == JobStatus.CANCELLED, (
            f"a cancel at its first report ended in {stopped.status}: let JobStopped through"
        )
        left = _written(outputs, beside)
        assert not left, f"a cancelled job has outputs: {left}"
        for path, content in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return run


def _written(outputs: list[Path], beside: set[Path]) -> set[Path]:
    """The outputs and what is beside them, as far as it was not there before."""
    folders = {path.parent for path in outputs if path.parent.exists()}
    above = {folder for path in outputs for folder in path.parents}
    return {entry for folder in folders for entry in folder.iterdir()} - beside - above


def _take_away(written: set[Path]) -> dict[Path, bytes]:
    """Remove what a run has written; returns the files."""
    kept: dict[Path, bytes] = {}
    for entry in written:
        if entry.is_dir() and not entry.is_symlink():
            kept.update({path: path.read_bytes() for path in entry.rglob("*") if path.is_file()})
            shutil.rmtree(entry)
            continue
        if entry.is_file():
            kept[entry] = entry.read_bytes()
        entry.unlink()
    return kept


def _check_description(module: ComputeModule[Any]) -> None:
    task_type = module.task_type
    assert isinstance(task_type, str), f"task_type must be a str, not {task_type!r}"
    assert TASK_TYPE.fullmatch(task_type), (
        f"task_type must be 1 to 64 of the characters A-Z, a-z, 0-9, '_', '.' and '-', not {task_type!r}"
    )
    assert type(module)().task_type == task_type, "task_type must be the same for every instance"
    schema = module.get_schema()
    assert isinstance(schema, type), f"get_schema() must return a class, not {schema!r}"
    assert issubclass(schema, BaseJobParams), f"{schema.__name__} must be a subclass of BaseJobParams"


def _run_and_check(
    module: ComputeModule[Any],
    values: dict[str, Any],
    outputs: list[Path],
    beside: set[Path],
    inputs: dict[Path, bytes],
    extra_outputs: bool,
) -> PluginRun:
    run = asyncio.run(run_plugin(module, values))
    assert run.status == JobStatus.COMPLETED, f"the job ended in {run.status}: {run.error_message}"
    assert not run.unread, run.unread
    for path in outputs:
        assert path.exists(), f"it is completed, and there is no {path}"
    extra = _written(outputs, beside) - set(outputs)
    assert extra_outputs or not extra, (
        f"it left something beside its outputs: {extra}. When that is meant, say extra_outputs=True"
    )
    for path, content in inputs.items():
        assert path.read_bytes() == content, f"it changed its input {path}"
    for earlier, later in zip(run.progress, run.progress[1:], strict=False):
        assert earlier <= later, f"its progress went back from {earlier} to {later}"
    assert all(0 <= percent <= 100 for percent in run.progress), f"its progress left 0 to 100: {run.progress}"
    assert ".attempt-" not in json.dumps(run.task_output), "its output tells a path of the attempt"
    return run
