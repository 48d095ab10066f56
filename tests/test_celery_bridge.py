"""Jobs through real Celery workers."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from harness import Process, ended, wait_until

from cl_ml_tools.celery_bridge import CeleryJobRepository

Submit = Callable[..., str]
StartWorker = Callable[..., Process]


def test_a_worker_runs_a_job_and_stores_its_outcome(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    start_worker("-c", "1")
    target = tmp_path / "out" / "a.txt"
    job_id = submit(["progress", 10, 50], ["write", "hello"], output_paths=[str(target)])
    job = ended(repository, job_id)
    assert (job.status, job.progress, job.attempt, job.error_message) == ("completed", 100, 1, None)
    assert job.task_output is not None
    assert job.task_output["processed_files"] == [str(target)]
    assert target.read_text() == "hello"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_an_exception_of_a_plugin_is_the_jobs_error_and_the_worker_goes_on(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    worker = start_worker("-c", "1")
    target = tmp_path / "out" / "a.txt"
    bad = submit(["write", "half"], ["fail", "no such colour"], output_paths=[str(target)])
    good = submit()
    job = ended(repository, bad)
    assert (job.status, job.error_message) == ("error", "RuntimeError: no such colour")
    assert list(target.parent.iterdir()) == []
    assert ended(repository, good).status == "completed"
    assert "Traceback" in worker.output
    assert bad in worker.output


def test_a_job_that_holds_the_gil_for_longer_than_its_lease_runs_once(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: Callable[[], list[str]],
) -> None:
    start_worker("-c", "1", CL_ML_TOOLS_LEASE_SECONDS="1")
    job_id = submit(["hold_the_gil", 4])
    wait_until(lambda: f"{job_id} start" in probe_log())
    store = repository.store
    lease_ends = []
    while (job := repository.get_job(job_id)) is not None and job.status == "processing":
        end = store.client.zscore(store.keys("leases"), job_id)
        if end is not None:
            lease_ends.append(end / 1000 - time.time())
        time.sleep(0.05)
    assert min(lease_ends) > 0, "the lease has ended under a living job"
    assert ended(repository, job_id).attempt == 1
    assert probe_log() == [f"{job_id} start", f"{job_id} end"]


def test_a_job_whose_process_is_killed_runs_again_and_ends_in_error_the_third_time(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: Callable[[], list[str]],
) -> None:
    start_worker("-c", "2")
    poison = submit(["kill_self"])
    good = submit()
    job = ended(repository, poison)
    assert job.status == "error"
    assert job.error_message is not None
    assert "died 3 times" in job.error_message
    assert [(end.attempt, end.cause) for end in job.history] == [
        (1, "crashed"),
        (2, "crashed"),
        (3, "crashed"),
    ]
    assert all("signal 9" in end.detail for end in job.history)
    assert probe_log().count(f"{poison} start") == 3
    assert ended(repository, good).status == "completed"


def test_a_job_whose_process_is_killed_from_outside_completes_in_another(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "1")
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_until(lambda: f"{job_id} start" in probe_log())
    (child,) = [p for p in worker.children() if p.pid == int(read_pid(tmp_path))]
    psutil.Process(child.pid).send_signal(signal.SIGKILL)
    wait_until(lambda: probe_log().count(f"{job_id} start") == 2, why="started again")
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, job.crashes) == ("completed", 2, 1)


def read_pid(folder: Path) -> str:
    return (folder / "probe.log").read_text().split()[-1]


def test_a_warm_shutdown_lets_the_running_job_finish(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "1", CL_ML_TOOLS_LEASE_SECONDS="1")
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_until(lambda: f"{job_id} start" in probe_log())
    worker.send(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    store = repository.store
    first = store.client.zscore(store.keys("leases"), job_id)
    # The lease is still extended while the worker waits for its job.
    wait_until(lambda: (store.client.zscore(store.keys("leases"), job_id) or 0) > (first or 0) + 1000)
    gate.touch()
    assert ended(repository, job_id).status == "completed"
    assert worker.popen.wait(20) == 0


def test_a_node_without_a_plugin_leaves_its_jobs_to_others(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository
) -> None:
    without = start_worker("-c", "1", PYTHONPATH="")
    job_id = submit()
    picture_only = without.output
    assert "cl_ml_tools.image_resize" in picture_only
    assert "cl_ml_tools.probe" not in picture_only
    start_worker("-c", "1")
    assert ended(repository, job_id).status == "completed"
    assert job_id not in without.output


def test_the_queues_that_a_worker_consumes_can_be_narrowed(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository
) -> None:
    start_worker("-c", "1", "-Q", "cl_ml_tools.probe_other")
    waiting = submit()
    done = submit(task_type="probe_other")
    assert ended(repository, done).status == "completed"
    job = repository.get_job(waiting)
    assert job is not None
    assert job.status == "queued"


def test_progress_is_coalesced_and_its_last_value_is_stored(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    start_worker("-c", "1")
    gate = tmp_path / "gate"
    job_id = submit(["progress", *range(90)], ["progress_from_a_thread", 95], ["wait_for", str(gate)])

    def progress() -> int:
        job = repository.get_job(job_id)
        return job.progress if job else -1

    wait_until(lambda: progress() == 95)
    events: Any = repository.store.client.xrange(repository.store.keys("events"))
    reported = [fields for _, fields in events if fields["j"] == job_id and fields["s"] == "processing"]
    assert len(reported) <= 4, "96 reports within a moment are a few writes"
    gate.touch()
    assert ended(repository, job_id).progress == 100
