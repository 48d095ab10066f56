"""Whole nodes that die, jobs that kill whoever runs them, and jobs that run for longer than any timeout."""

import json
import signal
import time
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
    record,
    starts,
    stopped,
    wait_for_word,
)

from cl_ml_tools.celery_bridge import CeleryJobRepository


def test_ten_jobs_of_a_killed_node_are_finished_by_another(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "10", **QUICK)
    gate = tmp_path / "gate"
    job_ids = [submit(["wait_for", str(gate)]) for _ in range(10)]
    for job_id in job_ids:
        wait_for_word(probe_log, job_id, "start")
    second = start_worker("-c", "10", **QUICK)
    node = str(repository.store.client.hget(repository.store.keys("job", job_ids[0]), "node"))
    first.kill_group()
    gate.touch()
    killed_at = time.monotonic()
    jobs = [ended(repository, job_id) for job_id in job_ids]
    took = time.monotonic() - killed_at
    print(f"all finished elsewhere {took:.1f} s after the kill (lease 2 s, interval 0.5 s)")
    # A lease and two intervals, and a lot for two busy cores.
    assert took < 2 + 2 * 0.5 + 12
    for job in jobs:
        assert (job.status, job.attempt, job.leases_lost, job.crashes) == ("completed", 2, 1, 0)
        (end,) = job.history
        assert (end.attempt, end.cause, end.node) == (1, "lost", node)
        assert end.at > (job.created_at or 0)
        assert starts(probe_log, job.job_id) == 2
    assert "recovery: 10 queued" in second.output or second.output.count(": queued") == 10


def test_a_poison_job_among_good_ones_ends_in_error_and_costs_them_nothing(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    start_worker("-c", "2", **QUICK)
    good = [submit(["sleep", 0.1]) for _ in range(5)]
    poison = submit(["exit_at_once", 1])
    good += [submit(["sleep", 0.1]) for _ in range(15)]
    job = ended(repository, poison)
    assert (job.status, job.crashes, job.attempt) == ("error", 3, 3)
    assert "died 3 times" in (job.error_message or "")
    assert history(job) == [(1, "crashed"), (2, "crashed"), (3, "crashed")]
    for end in job.history:
        assert "exitcode 1" in end.detail
        assert end.node
    assert starts(probe_log, poison) == 3
    jobs = [ended(repository, job_id) for job_id in good]
    assert {(job.status, job.attempt, job.crashes) for job in jobs} == {("completed", 1, 0)}


def test_a_node_that_stood_still_for_longer_than_its_lease_changes_nothing_when_it_goes_on(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write_pid"], ["wait_for", str(gate)], output_paths=[str(target)])
    wait_for_word(probe_log, job_id, "start")
    first.send_group(signal.SIGSTOP)
    start_worker("-c", "1", **QUICK)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])
    output = target.read_text()
    first.send_group(signal.SIGCONT)
    # It finds the gate open, and is done, too.
    first.wait_for(f"job {job_id}: its claim has ended, this run stops", seconds=PATIENCE)
    assert record(repository, job_id) == job
    assert target.read_text() == output == str((job.task_output or {})["pid"])
    wait_until(lambda: [path.name for path in target.parent.iterdir()] == ["a.txt"])


def test_a_main_process_that_stands_still_costs_its_pool_processes_no_lease(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    start_worker("-c", "1", **QUICK)
    store = repository.store
    with stopped(first.pid):
        lease_end = store.client.zscore(store.keys("leases"), job_id) or 0
        wait_until(
            lambda: (store.client.zscore(store.keys("leases"), job_id) or 0) > lease_end + 3000,
            seconds=PATIENCE,
        )
        gate.touch()
        job = ended(repository, job_id)
    assert (job.status, job.attempt, starts(probe_log, job_id)) == ("completed", 1, 1)


def test_pool_processes_that_are_replaced_after_each_job_cost_no_job_a_crash(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository
) -> None:
    start_worker("-c", "2", "--max-tasks-per-child", "1", **QUICK)
    jobs = [ended(repository, job_id) for job_id in [submit() for _ in range(10)]]
    assert {(job.status, job.attempt, job.crashes) for job in jobs} == {("completed", 1, 0)}
    assert len({(job.task_output or {})["pid"] for job in jobs}) == 10


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.long)])
def test_a_job_whose_node_is_lost_so_often_ends_in_error(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    times: int,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "1", "CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS": "0.1"}
    if times != 10:  # which it is when nothing is said
        settings["CL_ML_TOOLS_MAX_LEASES_LOST"] = str(times)
    job_id = submit(["wait_for", "/never"])
    # A node without its plugin recovers, and takes nothing.
    start_worker("-c", "1", PYTHONPATH="", **settings)
    for number in range(1, times + 1):
        node = start_worker("-c", "1", **settings)
        wait_for_word(probe_log, job_id, "start", times=number)
        node.kill_group()

        def is_counted(number: int = number) -> bool:
            return record(repository, job_id).leases_lost == number

        wait_until(is_counted, seconds=PATIENCE)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, job.leases_lost, job.crashes) == ("error", times, times, 0)
    assert f"lost {times} times" in (job.error_message or "")
    assert history(job) == [(number, "lost") for number in range(1, times + 1)]
    assert len({end.node for end in job.history}) == times


@pytest.mark.parametrize(
    ("seconds", "lease_seconds", "visibility_timeout"),
    [(8, 1, 2), pytest.param(90, 5, 10, marks=[pytest.mark.long, pytest.mark.timeout(240)])],
)
@pytest.mark.redis_broker
@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_a_job_that_runs_for_longer_than_lease_and_visibility_timeout_runs_once(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    pool: str,
    seconds: int,
    lease_seconds: int,
    visibility_timeout: int,
) -> None:
    options = {
        "visibility_timeout": visibility_timeout,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
    tuned = {"TUNED_TRANSPORT_OPTIONS": json.dumps(options), "CL_ML_TOOLS_LEASE_SECONDS": str(lease_seconds)}
    workers = [
        start_worker("-c", "1", "--pool", pool, app="tuned_celery_app", **{**QUICK, **tuned})
        for _ in range(2)
    ]
    job_id = submit(["sleep", seconds])
    wait_for_word(probe_log, job_id, "start")
    wait_for_word(probe_log, job_id, "end", seconds=seconds + PATIENCE)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job), starts(probe_log, job_id)) == ("completed", 1, [], 1)
    refused = sum(worker.output.count(f"job {job_id} is not started: held") for worker in workers)
    print(f"a job of {seconds} s: 1 start, {refused} redeliveries refused")
    assert refused >= 1, "the broker has redelivered it"
