"""Runs that reach their time limits, on each pool as far as it can, and processes that die just then."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import staging
from harness import PROBE_PLUGINS, ended, wait_until
from link import Link
from staging import (
    QUICK,
    ProbeLog,
    StartWorker,
    Submit,
    history,
    is_alive,
    process_of,
    record,
    record_through,
    starts,
    stop,
    unacknowledged_messages,
    wait_for_word,
)

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.redis_broker

link = staging.link_to_server

SOFT = {"CL_ML_TOOLS_SOFT_TIME_LIMIT_SECONDS": "1"}
HARD = {"CL_ML_TOOLS_TIME_LIMIT_SECONDS": "2"}
UNKNOWN_TO_CELERY = {
    "PYTHONPATH": f"{Path(__file__).parent / 'at_start'}{os.pathsep}{PROBE_PLUGINS}",
    "CELERY_KEEPS_SECONDS": "0",
}
"""See ``at_start/sitecustomize.py``."""


@pytest.mark.parametrize("step", ["wait_and_clean_up", "await_and_clean_up", "sleep_and_clean_up"])
def test_at_the_soft_limit_a_plugin_cleans_up_and_the_job_ends_in_error(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    step: str,
) -> None:
    start_worker("-c", "1", **QUICK, **SOFT)
    job_id = submit([step, "/never"])
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its soft time limit of 1 s")
    assert probe_log() == [f"{job_id} start", f"{job_id} cleaned-up"]
    assert (job.attempt, history(job)) == (1, [])


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_soft_limit_of_an_annotation_is_that_of_the_job(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    pool: str,
) -> None:
    (tmp_path / "annotated.py").write_text(
        "from cl_ml_tools.app import create_celery_app\n"
        "app = create_celery_app()\n"
        "app.conf.task_annotations = {'*': {'soft_time_limit': 1, 'time_limit': 20}}\n"
    )
    path = f"{tmp_path}{os.pathsep}{PROBE_PLUGINS}"
    start_worker("-c", "1", "-P", pool, app="annotated", **QUICK, PYTHONPATH=path)
    job_id = submit(["await_and_clean_up", "/never"])
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its soft time limit of 1 s")
    assert (job.attempt, probe_log()) == (1, [f"{job_id} start", f"{job_id} cleaned-up"])


def test_a_soft_limit_of_the_workers_command_line_ends_the_job_in_error(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    start_worker("-c", "1", "--soft-time-limit", "1", **QUICK)
    job_id = submit(["wait_and_clean_up", "/never"])
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its soft time limit")
    assert (job.attempt, probe_log()) == (1, [f"{job_id} start", f"{job_id} cleaned-up"])


@pytest.mark.parametrize("celery", [{}, UNKNOWN_TO_CELERY], ids=["known-to-celery", "unknown-to-celery"])
def test_at_the_hard_limit_the_pool_process_ends_and_the_job_with_it(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    celery: dict[str, str],
) -> None:
    start_worker("-c", "1", **QUICK, **SOFT, **HARD, **celery)
    job_id = submit(["ignore_soft_limit_until", "/never"])
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its time limit of 2 s")
    assert (job.attempt, job.crashes, history(job)) == (1, 0, [(1, "timed_out")])
    assert f"{job_id} SoftTimeLimitExceeded" in probe_log()
    wait_until(lambda: not is_alive(process_of(tmp_path, job_id)))
    wait_until(lambda: unacknowledged_messages(repository) == 0)
    assert ended(repository, submit()).status == "completed", "the worker goes on"


def test_a_pool_process_that_stands_still_is_ended_at_the_hard_limit(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    start_worker("-c", "1", **QUICK, **HARD)
    job_id = submit(["wait_for", "/never"])
    wait_for_word(probe_log, job_id, "start")
    stop(process_of(tmp_path, job_id))
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its time limit of 2 s")


@pytest.mark.parametrize("pool", ["threads", pytest.param("solo", marks=pytest.mark.long)])
@pytest.mark.parametrize(("limit", "kind"), [(SOFT, "soft time limit of 1 s"), (HARD, "time limit of 2 s")])
def test_without_pool_processes_a_plugin_that_awaits_is_ended_at_its_limit(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    pool: str,
    limit: dict[str, str],
    kind: str,
) -> None:
    start_worker("-c", "1", "--pool", pool, **QUICK, **limit)
    job_id = submit(["await_and_clean_up", "/never"])
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", f"stopped at its {kind}")
    wait_for_word(probe_log, job_id, "cleaned-up")


@pytest.mark.parametrize("pool", ["threads", pytest.param("solo", marks=pytest.mark.long)])
def test_without_pool_processes_a_job_ends_at_its_limit_though_its_code_goes_on_unheard(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    pool: str,
) -> None:
    start_worker("-c", "1", "--pool", pool, **QUICK, **HARD)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write", "late"], ["wait_for", str(gate)], output_paths=[str(target)])
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its time limit of 2 s")
    assert history(job) == [(1, "timed_out")]
    gate.touch()
    # What it still does has no effect, and the worker takes the next job.
    assert ended(repository, submit()).status == "completed"
    assert record(repository, job_id).status == "error"
    assert list(target.parent.iterdir()) == []


def test_a_job_is_done_whose_node_was_killed_while_the_plugin_cleaned_up_at_the_soft_limit(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    first = start_worker("-c", "1", **QUICK, **SOFT)
    job_id = submit(["ignore_soft_limit_until", str(gate)])
    wait_for_word(probe_log, job_id, "SoftTimeLimitExceeded")
    first.kill_group()
    gate.touch()
    start_worker("-c", "1", **QUICK)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])


def test_a_node_killed_between_the_hard_limit_and_its_record_leaves_the_job_to_another(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    first = start_worker("-c", "1", **QUICK, **HARD, **record_through(link, redis_server))
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    link.hold_requests()
    wait_until(lambda: not is_alive(process_of(tmp_path, job_id)), why="the hard limit has come")
    assert record(repository, job_id).status == "processing"
    first.kill_group()
    link.cut()
    gate.touch()
    start_worker("-c", "1", **QUICK)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, starts(probe_log, job_id)) == ("completed", 2, 2)


def test_a_hard_limit_that_comes_while_the_record_is_away_is_recorded_when_it_is_back(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    start_worker(
        "-c",
        "1",
        **{**QUICK, **HARD, "CL_ML_TOOLS_LEASE_SECONDS": "30"},
        **record_through(link, redis_server),
    )
    job_id = submit(["wait_for", "/never"])
    wait_for_word(probe_log, job_id, "start")
    link.cut()
    wait_until(lambda: not is_alive(process_of(tmp_path, job_id)), why="the hard limit has come")
    link.mend()
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its time limit of 2 s")
    assert (job.attempt, starts(probe_log, job_id)) == (1, 1)


def test_the_hard_limit_is_kept_while_the_broker_is_away(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    through = {
        "CL_ML_TOOLS_REDIS_URL": redis_server.redis_url,
        "CL_ML_TOOLS_BROKER_URL": link.broker_url,
    }
    worker = start_worker("-c", "1", **QUICK, **HARD, **through)
    job_id = submit(["wait_for", "/never"])
    wait_for_word(probe_log, job_id, "start")
    link.cut()
    worker.wait_for("consumer: Cannot connect")
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its time limit of 2 s")
    wait_until(lambda: not is_alive(process_of(tmp_path, job_id)))
    link.mend()
    assert ended(repository, submit()).status == "completed", "the worker goes on"
    assert record(repository, job_id).history[0].cause == "timed_out"


@pytest.mark.parametrize("lease_seconds", ["30", "1"], ids=["sure-of-the-lease", "in-doubt-of-the-lease"])
@pytest.mark.parametrize("limit", ["soft", "hard"])
def test_time_spent_waiting_for_the_record_to_take_the_outcome_does_not_count(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    limit: str,
    lease_seconds: str,
) -> None:
    settings = {
        **QUICK,
        "CL_ML_TOOLS_LEASE_SECONDS": lease_seconds,
        {"soft": "CL_ML_TOOLS_SOFT_TIME_LIMIT_SECONDS", "hard": "CL_ML_TOOLS_TIME_LIMIT_SECONDS"}[limit]: "4",
    }
    worker = start_worker("-c", "1", **settings, **record_through(link, redis_server))
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write", "whole"], ["wait_for", str(gate)], output_paths=[str(target)])
    wait_for_word(probe_log, job_id, "start")
    link.cut()
    if lease_seconds == "1":
        store = repository.store
        wait_until(lambda: (store.client.zscore(store.keys("leases"), job_id) or 0) / 1000 < time.time())
    gate.touch()
    worker.wait_for(f"{limit.title()} time limit")
    link.mend()
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("completed", None)
    assert target.read_text() == "whole"


def test_celery_has_no_timer_for_a_limit_that_is_hours_away() -> None:
    """It would stay in the main process's memory for all these hours, for each job that was done long before."""
    program = (
        "from cl_ml_tools.app import create_celery_app; app = create_celery_app(); "
        "app.loader.import_default_modules(); task = app.tasks['cl_ml_tools.image_resize']; "
        "print(task.time_limit, task.longest_run)"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for variables in ({}, HARD)
    ]
    assert told == [["None", "21600.0"], ["2.0", "2.0"]]
