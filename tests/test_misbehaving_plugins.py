"""Whatever a plugin does, its job ends clearly, the next job finds its process in order, and the worker goes on."""

import signal
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Process, ended, wait_until

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import Job, JobRecord

POOLS = {"prefork": (), "threads": ("--pool", "threads"), "solo": ("--pool", "solo")}


@dataclass
class Stage:
    """A worker for one job at a time."""

    pool: str
    repository: CeleryJobRepository
    worker: Process
    gate: Path

    def add(self, how: str, task_type: str = "misbehaving", **params: Any) -> str:
        params = {"how": how, "gate": str(self.gate), **params}
        return self.repository.add_job(Job(job_id=str(uuid.uuid4()), task_type=task_type, params=params))

    def run(self, how: str, task_type: str = "misbehaving", **params: Any) -> JobRecord:
        return ended(self.repository, self.add(how, task_type, **params))

    def process_state(self) -> dict[str, Any]:
        """What a well-behaved job finds in the same process."""
        job = self.run("behave")
        assert job.status == "completed", job.error_message
        assert job.task_output is not None
        return job.task_output


@pytest.fixture(params=POOLS)
def stage(
    request: pytest.FixtureRequest,
    start_worker: Callable[..., Process],
    repository: CeleryJobRepository,
    tmp_path: Path,
) -> Stage:
    worker = start_worker("-c", "1", *POOLS[request.param], CL_ML_TOOLS_LEASE_SECONDS="2")
    return Stage(request.param, repository, worker, tmp_path / "gate")


NO_RESULT = "the plugin returned no result"

ENDS: list[tuple[str, str, str | None]] = [
    # what it does, the job's status, the beginning of its error message
    ("return_none", "error", NO_RESULT),
    ("return_a_wrong_dict", "error", NO_RESULT),
    ("return_what_json_cannot_hold", "error", "task_output.pixels is a bytes, which JSON does not have"),
    ("raise_a_base_exception", "error", "OddError: odd"),
    ("raise_what_cannot_be_told", "error", "UntoldError, which says no more"),
    ("cancel_itself", "error", "CancelledError: the plugin cancelled itself"),
    ("exit_with_a_message", "error", "SystemExit: no model found"),
    ("raise_keyboard_interrupt", "error", "KeyboardInterrupt"),
    ("exit_in_an_asyncio_task", "error", "SystemExit: left"),
    ("interrupt_in_an_asyncio_task", "error", "KeyboardInterrupt"),
    ("fork_a_child_that_exits", "completed", None),
    ("use_multiprocessing", "completed", None),
    ("change_the_working_directory", "completed", None),
    ("change_the_working_directory_and_fail", "error", "RuntimeError: elsewhere"),
    ("close_the_streams", "completed", None),
    ("report_odd_progress", "completed", None),
    ("install_signal_handlers", "completed", None),
    ("change_the_locale", "completed", None),
    ("begin_the_logging_anew", "completed", None),
    ("configure_the_logging", "error", "RuntimeError: unheard of"),
    ("replace_the_streams", "completed", None),
    ("clear_the_environment", "completed", None),
]


EXCEPTIONS: dict[tuple[str, str], tuple[str, str | None]] = {
    # What Python and Celery do not allow there.
    ("use_multiprocessing", "prefork"): (
        "error",
        "AssertionError: daemonic processes are not allowed to have children",
    ),
    ("install_signal_handlers", "threads"): ("error", "ValueError: signal only works in main thread"),
}


def test_a_plugin_that_misbehaves_ends_its_job_and_leaves_the_process_in_order(stage: Stage) -> None:
    before = stage.process_state()
    assert before["folder"] == str(ROOT)
    for how, status, message in ENDS:
        status, message = EXCEPTIONS.get((how, stage.pool), (status, message))
        job = stage.run(how)
        assert (how, job.status, job.attempt) == (how, status, 1), job.error_message
        assert (job.error_message or "").startswith(message or "") == (
            job.error_message is not None or not message
        )
        assert stage.process_state() == before, how
    assert stage.worker.popen.poll() is None
    stage.worker.wait_for("in configure_the_logging")


def test_an_execute_that_is_not_async_of_an_entry_point_with_another_name_is_run_all_the_same(
    stage: Stage,
) -> None:
    assert stage.run("", task_type="not_async").status == "completed"


@pytest.mark.parametrize(
    ("how", "exit_code"),
    [
        ("fork_a_child_that_leaves_by_sys_exit", 7),
        ("fork_a_child_that_fails", 1),
        ("fork_a_child_that_returns", 1),
    ],
)
def test_a_forked_child_that_leaves_the_plugins_code_ends_and_stores_nothing(
    stage: Stage, how: str, exit_code: int
) -> None:
    job = stage.run(how)
    assert (job.status, job.task_output) == ("completed", {"exit_code": exit_code})
    assert stage.process_state()["asyncio_tasks"] == 1


def test_outputs_with_relative_paths_are_found_after_the_plugin_went_elsewhere(stage: Stage) -> None:
    target = ROOT / f".{stage.gate.parent.name}-{uuid.uuid4()}.txt"
    try:
        job = stage.run("write_relative_outputs_and_go_elsewhere", output_paths=[target.name])
        assert (job.status, job.error_message) == ("completed", None)
        assert target.read_text() == "here"
    finally:
        target.unlink(missing_ok=True)


def test_closed_file_descriptors_do_not_stop_the_process(stage: Stage) -> None:
    assert stage.run("close_the_file_descriptors").status == "completed"
    assert stage.run("behave").status == "completed"


def test_a_thread_that_reports_after_its_jobs_end_is_not_heard(stage: Stage) -> None:
    job = stage.run("report_after_the_end")
    assert (job.status, job.progress) == ("completed", 100)
    before = stage.process_state()
    stage.gate.touch()
    wait_until(lambda: Path(f"{stage.gate}.passed").exists(), why="the thread has lived on")
    assert stage.process_state() == before
    assert stage.repository.get_job(job.job_id) == job


def test_a_thread_that_is_left_behind_does_not_keep_the_worker_from_ending(stage: Stage) -> None:
    assert stage.run("report_after_the_end").status == "completed"
    stage.worker.send(signal.SIGTERM)
    stage.worker.wait_for("Warm shutdown")
    stage.gate.touch()
    assert stage.worker.popen.wait(60) == 0


def test_an_asyncio_task_that_is_left_behind_is_cancelled(stage: Stage) -> None:
    assert stage.run("leave_asyncio_tasks_behind").status == "completed"
    wait_until(lambda: Path(f"{stage.gate}.cancelled").exists())
    assert stage.process_state()["asyncio_tasks"] == 1
