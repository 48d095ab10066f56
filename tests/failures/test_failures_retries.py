"""Jobs that are tried again: by themselves, by a person, later, or not any more."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

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
    wait_for_status,
    wait_for_word,
)

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.errors import JobStateError, UnknownJobError


def server_ms(repository: CeleryJobRepository) -> int:
    seconds, microseconds = repository.store.client.time()
    return seconds * 1000 + microseconds // 1000


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_exception_that_is_worth_it_is_tried_again_with_backoff_until_the_last_try(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    pool: str,
) -> None:
    start_worker("-c", "1", "--pool", pool, **QUICK)
    job_id = submit(["fail_for_now", "the disk is away"])
    waits = []
    for attempt in (1, 2):

        def waiting(attempt: int = attempt) -> bool:
            job = record(repository, job_id)
            return (job.status, job.attempt) == ("queued", attempt) and job.due_at is not None

        wait_until(waiting, seconds=PATIENCE, why="the record says when the next try is due")
        job = record(repository, job_id)
        waits.append(((job.due_at or 0) - job.history[-1].at) / 1000)
    job = ended(repository, job_id)
    assert waits == pytest.approx([1, 2], abs=0.1), "retry_backoff: 1 s, then twice that"
    assert (job.status, job.error_message) == ("error", "TransientError: the disk is away")
    assert (job.attempt, job.failures, job.crashes) == (3, 3, 0), "max_retries = 2"
    assert history(job) == [(1, "failed"), (2, "failed"), (3, "failed")]
    assert starts(probe_log, job_id) == 3


def test_a_try_without_a_pause_begins_at_once(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository
) -> None:
    start_worker("-c", "1", CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS="3600")
    job = ended(repository, submit(["fail_for_now", "the disk is away"], task_type="probe_other"))
    assert (job.status, job.attempt, job.failures) == ("error", 3, 3)


def test_a_try_that_succeeds_completes_the_job(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    start_worker("-c", "1", **QUICK)
    job_id = submit(["fail_for_now_unless", str(tmp_path / "disk")])
    wait_until(lambda: record(repository, job_id).failures == 1, seconds=PATIENCE)
    (tmp_path / "disk").touch()
    job = ended(repository, job_id)
    assert (job.status, job.error_message, job.due_at) == ("completed", None, None)
    assert history(job)[0] == (1, "failed")


@pytest.mark.parametrize("step", [["find_bad_input", "no picture"], ["fail", "a bug"], ["exit", 3]])
def test_bad_input_and_what_a_plugin_does_not_name_are_final(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    step: list[object],
) -> None:
    start_worker("-c", "1", **QUICK)
    job = ended(repository, submit(step))
    assert (job.status, job.attempt, job.failures) == ("error", 1, 0)
    assert str(step[1]) in (job.error_message or "")
    assert starts(probe_log, job.job_id) == 1


def test_a_job_starts_not_before_its_time(
    start_worker: StartWorker, repository: CeleryJobRepository, probe_log: ProbeLog, tmp_path: Path
) -> None:
    start_worker("-c", "1", **QUICK)
    not_before = datetime.now(UTC) + timedelta(seconds=3)
    job_id = repository.add_job(probe_job(tmp_path), not_before=not_before)
    job = record(repository, job_id)
    assert (job.status, job.due_at) == ("queued", int(not_before.timestamp() * 1000))
    job = ended(repository, job_id)
    assert job.status == "completed"
    assert (job.started_at or 0) >= not_before.timestamp() * 1000


def test_a_job_that_has_expired_ends_cancelled_though_no_worker_takes_it(
    start_worker: StartWorker, repository: CeleryJobRepository, probe_log: ProbeLog, tmp_path: Path
) -> None:
    start_worker("-c", "1", "-Q", "cl_ml_tools.probe_other", **QUICK)
    expires = datetime.now(UTC) + timedelta(seconds=1)
    job_id = repository.add_job(probe_job(tmp_path), expires=expires)
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("cancelled", "expired before it ran")
    start_worker("-c", "1", **QUICK).wait_for(f"job {job_id} is not started: cancelled")
    assert starts(probe_log, job_id) == 0


def test_a_job_that_started_in_time_does_not_expire(
    start_worker: StartWorker,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    expires = datetime.now(UTC) + timedelta(seconds=2)
    job_id = repository.add_job(probe_job(tmp_path, ["wait_for", str(gate)]), expires=expires)
    wait_for_word(probe_log, job_id, "start")
    first.kill_group()
    wait_until(lambda: server_ms(repository) > expires.timestamp() * 1000, seconds=PATIENCE)
    gate.touch()
    start_worker("-c", "1", **QUICK)
    job = ended(repository, job_id)
    assert (job.status, job.attempt) == ("completed", 2), "it was accepted and begun: it is done"


def probe_job(folder: Path, *steps: list[str]) -> Job:
    params = {"log": str(folder / "probe.log"), "steps": list(steps)}
    return Job(job_id=str(uuid4()), task_type="probe", params=params)


def test_a_job_that_ended_in_error_is_retried_by_a_person_with_all_its_tries(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    start_worker("-c", "2", **QUICK, CL_ML_TOOLS_MAX_CRASHES="2")
    job_id = submit(["exit_at_once", 1])
    job = ended(repository, job_id)
    assert (job.status, job.crashes, job.attempt) == ("error", 2, 2)
    repository.retry_job(job_id)
    # `error` comes again only after two crashes more.
    wait_for_word(probe_log, job_id, "start", times=4)
    job = ended(repository, job_id)
    assert (job.job_id, job.status, job.crashes) == (job_id, "error", 2)
    assert (job.attempt, job.retries) == (4, 1)
    assert history(job) == [(number, "crashed") for number in range(1, 5)]


def test_a_retried_job_is_sent_under_another_celery_task_id(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository
) -> None:
    worker = start_worker("-c", "1", **QUICK)
    job_id = submit(["fail", "no"])
    ended(repository, job_id)
    for number in (1, 2):
        repository.retry_job(job_id)
        worker.wait_for(f"cl_ml_tools.probe[{job_id}.{number}] received")
        wait_for_status(repository, job_id, "error")
    assert record(repository, job_id).attempt == 3


def test_a_cancelled_job_is_retried_and_completes(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["await_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    repository.cancel_job(job_id)
    wait_for_status(repository, job_id, "cancelled")
    gate.touch()
    repository.retry_job(job_id)
    job = ended(repository, job_id)
    assert (job.status, job.error_message, job.attempt, job.retries) == ("completed", None, 2, 1)
    assert job.cancel_requested is False


def test_only_an_ended_and_uncompleted_job_is_retried(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    start_worker("-c", "1", **QUICK)
    done = submit()
    ended(repository, done)
    running = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, running, "start")
    waiting = submit()
    for job_id in (done, running, waiting):
        with pytest.raises(JobStateError):
            repository.retry_job(job_id)
    with pytest.raises(UnknownJobError):
        repository.retry_job("nobody")
    gate.touch()
    assert [ended(repository, job_id).attempt for job_id in (done, running, waiting)] == [1, 1, 1]
