"""A plugin that does what plugins should not do, one thing a job."""

import asyncio
import io
import locale
import logging
import logging.config
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cl_ml_tools import BaseJobParams, ComputeModule, Job
from cl_ml_tools.common.compute_module import ProgressCallback

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)


class MisbehaviourParams(BaseJobParams):
    """The name of a function of this module, and a file that the test makes to let go what was left behind."""

    how: str
    gate: str


class OddError(BaseException):
    """No ``Exception``."""


class MisbehavingTask(ComputeModule[MisbehaviourParams]):
    @property
    def task_type(self) -> str:
        return "misbehaving"

    def get_schema(self) -> type[MisbehaviourParams]:
        return MisbehaviourParams

    async def execute(
        self, job: Job, params: MisbehaviourParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        assert progress_callback is not None
        returned = globals()[params.how](params, progress_callback)
        if asyncio.iscoroutine(returned):
            returned = await returned
        return returned  # type: ignore[no-any-return]  # anything


class NotAsyncTask(MisbehavingTask):
    @property
    def task_type(self) -> str:
        return "not_async"

    def execute(  # type: ignore[override]
        self, job: Job, params: MisbehaviourParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        return OK


OK: dict[str, Any] = {"status": "ok", "task_output": {}}


def behave(params: MisbehaviourParams, report: ProgressCallback) -> dict[str, Any]:
    """Tells what the process is like in which a job finds itself."""
    return {
        "status": "ok",
        "task_output": {
            "process": os.getpid(),
            "folder": str(Path.cwd()),
            "signals": {number.name: repr(signal.getsignal(number)) for number in SIGNALS},
            "asyncio_tasks": len(asyncio.all_tasks()),
            "streams": [repr(sys.stdout), repr(sys.stderr)],
            "logging": [
                (
                    log.name,
                    log.level,
                    log.disabled,
                    log.propagate,
                    [repr(handler) for handler in log.handlers],
                )
                for log in map(logging.getLogger, (None, "celery", "cl_ml_tools.execution.run"))
            ],
        },
    }


def return_none(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    return None


def return_a_wrong_dict(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    return {"result": 1}


def return_what_json_cannot_hold(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    return {"status": "ok", "task_output": {"pixels": b"123"}}


def raise_a_base_exception(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    raise OddError("odd")


class UntoldError(Exception):
    """Breaks whoever writes it down."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raise_what_cannot_be_told(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    raise UntoldError


async def cancel_itself(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def exit_with_a_message(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    sys.exit("no model found")


def raise_keyboard_interrupt(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    raise KeyboardInterrupt


async def exit_in_an_asyncio_task(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    async def leave() -> None:
        sys.exit("left")

    await asyncio.create_task(leave())


async def interrupt_in_an_asyncio_task(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    async def leave() -> None:
        raise KeyboardInterrupt

    await asyncio.create_task(leave())


def fork_a_child_that_exits(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return OK


def fork_a_child_that_leaves_by_sys_exit(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    child = os.fork()
    if child == 0:
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    return {"status": "ok", "task_output": {"exit_code": os.waitstatus_to_exitcode(status)}}


def fork_a_child_that_fails(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    child = os.fork()
    if child == 0:
        raise RuntimeError("in the child")
    _, status = os.waitpid(child, 0)
    return {"status": "ok", "task_output": {"exit_code": os.waitstatus_to_exitcode(status)}}


def fork_a_child_that_returns(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    child = os.fork()
    if child == 0:
        return {"status": "ok", "task_output": {"by": "the child"}}
    _, status = os.waitpid(child, 0)
    return {"status": "ok", "task_output": {"exit_code": os.waitstatus_to_exitcode(status)}}


def use_multiprocessing(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        return {"status": "ok", "task_output": {"squares": pool.map(_square, [1, 2, 3])}}


def _square(number: int) -> int:
    return number * number


def change_the_working_directory(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    os.chdir("/")
    return OK


def change_the_working_directory_and_fail(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    os.chdir("/")
    raise RuntimeError("elsewhere")


def write_relative_outputs_and_go_elsewhere(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    for path in params.output_paths:
        Path(path).write_text("here")
    os.chdir("/")
    return OK


def close_the_streams(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    sys.stdout.close()
    sys.stderr.close()
    print("gone")
    return OK


def close_the_file_descriptors(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    os.close(1)
    os.close(2)
    return OK


def report_odd_progress(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    odd: list[Any] = [250, -3, None, "half", float("nan"), 3.7]
    for value in odd:
        report(value)
    thread = threading.Thread(target=report, args=(50,))
    thread.start()
    thread.join()
    return OK


def report_after_the_end(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    def go_on() -> None:
        while not Path(params.gate).exists():
            report(5)
            time.sleep(0.01)
        Path(f"{params.gate}.passed").touch()

    threading.Thread(target=go_on).start()
    return OK


async def leave_asyncio_tasks_behind(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    async def linger() -> None:
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                Path(f"{params.gate}.cancelled").touch()
                raise

    left.append(asyncio.create_task(linger()))
    await asyncio.sleep(0.02)
    return OK


left: list[Any] = []


def install_signal_handlers(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return OK


def change_the_locale(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    locale.setlocale(locale.LC_ALL, "C")
    return OK


def begin_the_logging_anew(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    logging.basicConfig(force=True, filename=os.devnull)
    return OK


def configure_the_logging(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL"}})
    raise RuntimeError("unheard of")


def replace_the_streams(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    sys.stdout = sys.stderr = io.StringIO()
    return OK


def clear_the_environment(params: MisbehaviourParams, report: ProgressCallback) -> Any:
    os.environ.clear()
    return OK
