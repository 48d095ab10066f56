"""Nodes that are shut down in each way that Celery has: warm, cold and soft."""

import json
import os
import signal
from pathlib import Path

import pytest
from harness import ended, wait_until
from staging import (
    PATIENCE,
    QUICK,
    ProbeLog,
    StartWorker,
    Submit,
    history,
    is_alive,
    process_of,
    record,
    starts,
    wait_for_status,
    wait_for_word,
    waiting_messages,
)

from cl_ml_tools.celery_bridge import CeleryJobRepository

SLOW = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "300", "CL_ML_TOOLS_LOST_MESSAGE_SECONDS": "300"}
"""Settings under which recovery brings nothing back while a test lasts: what comes back was given back."""


@pytest.mark.parametrize("pool", ["prefork", "threads", pytest.param("solo", marks=pytest.mark.long)])
def test_a_warm_shutdown_in_mid_job_lets_it_finish(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    pool: str,
) -> None:
    worker = start_worker("-c", "1", "--pool", pool, **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    next_job = submit()
    worker.send(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    store = repository.store
    lease_end = store.client.zscore(store.keys("leases"), job_id) or 0
    wait_until(
        lambda: (store.client.zscore(store.keys("leases"), job_id) or 0) > lease_end + 2000,
        seconds=PATIENCE,
        why="the lease is kept for longer than one",
    )
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 1, [])
    assert worker.popen.wait(PATIENCE) == 0
    assert record(repository, next_job).status == "queued"
    start_worker("-c", "1", **QUICK)
    assert ended(repository, next_job).status == "completed"
    assert starts(probe_log, job_id) == 1


def test_a_warm_shutdown_of_the_whole_process_group_costs_the_job_no_crash(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    # As systemd does it: SIGTERM to every process of the service.
    worker = start_worker("-c", "1", **SLOW)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    worker.send_group(signal.SIGTERM)
    worker.popen.wait(PATIENCE)
    gate.touch()
    start_worker("-c", "1", **SLOW)
    job = ended(repository, job_id)
    assert (job.status, job.crashes, job.leases_lost) == ("completed", 0, 0)


@pytest.mark.redis_broker
@pytest.mark.parametrize("step", ["await_for", "wait_for"])
def test_a_cold_shutdown_gives_the_running_job_back_at_once_and_counts_nothing(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    step: str,
) -> None:
    worker = start_worker("-c", "1", **SLOW)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write", "a"], [step, str(gate)], output_paths=[str(target)])
    wait_for_word(probe_log, job_id, "start")
    worker.send(signal.SIGQUIT)
    worker.popen.wait(PATIENCE)
    assert record(repository, job_id).status == "queued"
    assert waiting_messages(repository) >= 1
    gate.touch()
    start_worker("-c", "1", **SLOW)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [])
    assert (job.crashes, job.leases_lost, job.failures) == (0, 0, 0)
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def soft_shutdown(seconds: float) -> dict[str, str]:
    return {"TUNED_CONFIGURATION": json.dumps({"worker_soft_shutdown_timeout": seconds})}


def test_a_soft_shutdown_lets_a_job_finish_that_does_so_in_time(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "1", app="tuned_celery_app", **SLOW, **soft_shutdown(4))
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    worker.send(signal.SIGQUIT)
    worker.wait_for("Initiating Soft Shutdown")
    gate.touch()
    assert ended(repository, job_id).status == "completed"
    worker.popen.wait(PATIENCE)
    assert (record(repository, job_id).attempt, starts(probe_log, job_id)) == (1, 1)


def test_a_soft_shutdown_gives_a_job_back_that_does_not_finish_in_time(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "2", app="tuned_celery_app", **SLOW, **soft_shutdown(1))
    gate = tmp_path / "gate"
    job_ids = [submit(["wait_for", str(gate)]) for _ in range(2)]
    for job_id in job_ids:
        wait_for_word(probe_log, job_id, "start")
    worker.send(signal.SIGQUIT)
    worker.popen.wait(PATIENCE)
    assert [record(repository, job_id).status for job_id in job_ids] == ["queued", "queued"]
    gate.touch()
    start_worker("-c", "2", **SLOW)
    jobs = [ended(repository, job_id) for job_id in job_ids]
    assert [(job.status, job.attempt, history(job)) for job in jobs] == [("completed", 2, [])] * 2


def test_any_number_of_cold_shutdowns_leaves_a_job_its_tries(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    for number in range(1, 4):
        worker = start_worker("-c", "1", **SLOW, CL_ML_TOOLS_MAX_CRASHES="1", CL_ML_TOOLS_MAX_LEASES_LOST="1")
        wait_for_word(probe_log, job_id, "start", times=number)
        worker.send(signal.SIGQUIT)
        worker.popen.wait(PATIENCE)
    gate.touch()
    start_worker("-c", "1", **SLOW)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 4, [])


def test_a_pool_process_that_is_told_to_exit_takes_its_job_with_it_as_a_crash(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    start_worker("-c", "1", **SLOW)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    pool_process = process_of(tmp_path, job_id)
    os.kill(pool_process, signal.SIGTERM)
    wait_until(lambda: not is_alive(pool_process))
    gate.touch()
    job = wait_for_status(repository, job_id, "completed")
    assert (job.attempt, history(job)) == (2, [(1, "crashed")])
