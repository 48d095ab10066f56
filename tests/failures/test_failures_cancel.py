"""Jobs that are cancelled, deleted or revoked, before they run and while they do."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import staging
from harness import Environment, Flower, all_jobs, ended, wait_until
from link import Link
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
    record_through,
    starts,
    unacknowledged_messages,
    wait_for_status,
    wait_for_word,
)

from cl_ml_tools.app import create_storage
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.redis_broker

link = staging.link_to_server

LONG = pytest.mark.long
NEVER = "/never"


@pytest.fixture
def control(redis_server: EmbeddedRedis, environment: Environment) -> Any:
    """Celery's control, as Flower uses it: on an app that knows the broker only."""
    broker_url = environment.variables.get("CL_ML_TOOLS_BROKER_URL", redis_server.broker_url)
    return Flower(broker_url).control


def running(submit: Submit, probe_log: ProbeLog, *steps: list[Any], **params: Any) -> str:
    """A job that has begun with its steps."""
    job_id = submit(*steps, **params)
    wait_for_word(probe_log, job_id, "start")
    return job_id


def test_a_queued_job_is_cancelled_at_once_and_its_message_does_nothing(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    job_id = submit()
    assert repository.cancel_job(job_id) == "cancelled"
    job = record(repository, job_id)
    assert (job.status, job.error_message, job.attempt) == ("cancelled", "cancelled before it ran", 0)
    worker = start_worker("-c", "1", **QUICK)
    worker.wait_for(f"job {job_id} is not started: cancelled")
    assert ended(repository, submit()).status == "completed"
    assert starts(probe_log, job_id) == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", pytest.param("solo", marks=LONG)])
@pytest.mark.parametrize("step", ["await_and_clean_up", "report_until", "swallow_exceptions_until"])
def test_a_running_job_that_awaits_or_reports_stops_when_it_is_cancelled(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    pool: str,
    step: str,
) -> None:
    worker = start_worker("-c", "1", "--pool", pool, **{**QUICK, "CL_ML_TOOLS_CANCEL_GRACE_SECONDS": "30"})
    job_id = running(submit, probe_log, [step, NEVER])
    assert repository.cancel_job(job_id) == "stopping"
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("cancelled", "cancelled while it ran")
    assert (job.attempt, job.crashes, history(job)) == (1, 0, [])
    assert f"{job_id} swallowed" not in probe_log()
    if step == "await_and_clean_up":
        assert f"{job_id} cleaned-up" in probe_log()
    # By itself: the process that ran it goes on.
    assert is_alive(process_of(tmp_path, job_id))
    assert ended(repository, submit()).status == "completed"
    assert "is told to stop (" not in worker.output


def test_a_running_job_that_neither_awaits_nor_reports_is_ended_after_the_grace_period(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "1", **QUICK)
    target = tmp_path / "out" / "a.txt"
    job_id = running(submit, probe_log, ["write", "half"], ["wait_for", NEVER], output_paths=[str(target)])
    pool_process = process_of(tmp_path, job_id)
    repository.cancel_job(job_id)
    job = ended(repository, job_id)
    assert (job.status, job.error_message, job.crashes) == ("cancelled", "cancelled while it ran", 0)
    assert history(job) == []
    assert not is_alive(pool_process)
    assert not target.exists()
    worker.wait_for("has ended; it is cancelled")
    assert "was crashed" not in worker.output
    assert worker.popen.poll() is None
    assert ended(repository, submit()).status == "completed"


def program_of(probe_log: ProbeLog, job_id: str) -> int:
    """The process id of the program that the job has started."""
    words = [line.split()[1] for line in probe_log() if line.startswith(f"{job_id} program-")]
    return int(words[0].removeprefix("program-"))


@pytest.mark.parametrize(
    ("steps", "ends_itself"),
    [
        ([["run_program", "sleep", "1000"]], True),
        ([["start_program", "sleep", "1000"], ["wait_and_clean_up", NEVER]], True),
        ([["start_program", "sleep", "1000"], ["ignore_its_end_until", NEVER]], False),
    ],
    ids=["that it waits for", "that is left", "of a process that ignores its end"],
)
def test_a_cancel_ends_the_programs_that_a_blocking_job_has_started(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    steps: list[list[Any]],
    ends_itself: bool,
) -> None:
    worker = start_worker("-c", "1", **QUICK)
    target = tmp_path / "out" / "a.txt"
    job_id = submit(["write", "half"], *steps, output_paths=[str(target)])
    program = wait_until(lambda: "program-" in " ".join(probe_log()) and program_of(probe_log, job_id))
    pool_process = process_of(tmp_path, job_id)
    repository.cancel_job(job_id)
    assert ended(repository, job_id).status == "cancelled"
    wait_until(lambda: not is_alive(pool_process) and not is_alive(program), seconds=PATIENCE)
    if ends_itself:
        assert list(target.parent.iterdir()) == [], "the attempt has cleaned up"
        assert any(line.startswith(f"{job_id} cleaned-up") for line in probe_log()) == (len(steps) == 2)
    assert ended(repository, submit()).status == "completed"
    assert worker.output.count("goes on: ending process") == 1
    assert "Exception in thread" not in worker.output


def test_the_grace_period_of_a_job_is_not_that_of_the_one_before_it(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    """Each ends by itself within its own; the keeper looks once a second."""
    worker = start_worker("-c", "1", CL_ML_TOOLS_LEASE_SECONDS="3", CL_ML_TOOLS_CANCEL_GRACE_SECONDS="2")
    for number in range(4):
        gate = tmp_path / f"gate{number}"
        job_id = running(submit, probe_log, ["wait_for", str(gate)])
        repository.cancel_job(job_id)
        time.sleep(1.3)
        gate.touch()
        assert ended(repository, job_id).status == "cancelled"
    assert "ending process" not in worker.output


@pytest.mark.parametrize("pool", ["threads", pytest.param("solo", marks=LONG)])
def test_without_pool_processes_a_job_that_does_neither_is_cancelled_when_it_is_done(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    pool: str,
) -> None:
    worker = start_worker("-c", "1", "--pool", pool, **QUICK)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = running(submit, probe_log, ["write", "a"], ["wait_for", str(gate)], output_paths=[str(target)])
    repository.cancel_job(job_id)
    worker.wait_for(f"job {job_id} is told to stop: stopping")
    assert record(repository, job_id).status == "processing"
    gate.touch()
    assert ended(repository, job_id).status == "cancelled"
    assert not target.exists()


def test_a_cancel_that_comes_when_the_outcome_is_on_its_way_is_too_late(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "30", **record_through(link, redis_server)}
    start_worker("-c", "1", **settings)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = running(submit, probe_log, ["write", "a"], ["wait_for", str(gate)], output_paths=[str(target)])
    link.cut()
    gate.touch()
    wait_until(target.exists)
    assert repository.cancel_job(job_id) == "stopping"
    link.mend()
    assert ended(repository, job_id).status == "completed"


def test_a_job_whose_node_died_before_it_heard_of_its_cancel_ends_cancelled(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    first = start_worker("-c", "1", **QUICK)
    job_id = running(submit, probe_log, ["wait_for", NEVER])
    first.kill_group()
    assert repository.cancel_job(job_id) == "stopping"
    start_worker("-c", "1", **QUICK)
    assert ended(repository, job_id).status == "cancelled"
    assert starts(probe_log, job_id) == 1


def test_a_job_that_waits_for_its_next_try_is_cancelled_at_once(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    start_worker("-c", "1", **QUICK)
    job_id = running(submit, probe_log, ["fail_for_now", "the disk is away"])
    wait_for_status(repository, job_id, "queued")
    repository.cancel_job(job_id)
    job = record(repository, job_id)
    assert (job.status, job.due_at) == ("cancelled", None)


@pytest.mark.parametrize("step", ["await_for", "wait_for"])
def test_a_running_job_that_is_deleted_leaves_neither_record_nor_files(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
    step: str,
) -> None:
    start_worker("-c", "1", **QUICK)
    job_id, directory = job_with_files(submit, probe_log, tmp_path, [step, NEVER])
    assert repository.delete_job(job_id)
    assert repository.get_job(job_id) is None, "hidden at once"
    assert all_jobs(repository.store) == []
    wait_until(lambda: not directory.exists(), seconds=PATIENCE)
    assert repository.store.states([job_id]) == {job_id: None}
    wait_until(lambda: unacknowledged_messages(repository) == 0, seconds=PATIENCE)


def test_a_deleted_job_whose_node_died_leaves_neither_record_nor_files(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    job_id, directory = job_with_files(submit, probe_log, tmp_path, ["wait_for", NEVER])
    first.kill_group()
    assert repository.delete_job(job_id)
    start_worker("-c", "1", **QUICK)
    wait_until(lambda: not directory.exists(), seconds=PATIENCE)
    assert repository.store.states([job_id]) == {job_id: None}


def job_with_files(submit: Submit, probe_log: ProbeLog, folder: Path, *steps: list[Any]) -> tuple[str, Path]:
    """A running job that has written an output, and its directory."""
    storage = create_storage(Settings(storage_dir=folder / "media"))
    job_id = str(uuid4())
    directory = storage.create_job_directory(job_id)
    target = storage.get_output_path(job_id) / "a.txt"
    running(submit, probe_log, ["write", "half"], *steps, job_id=job_id, output_paths=[str(target)])
    return job_id, directory


def test_a_job_revoked_before_it_runs_ends_cancelled(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    control: Any,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    start_worker("-c", "1", **QUICK)
    running(submit, probe_log, ["wait_for", str(gate)])
    waiting = submit()
    assert control.revoke(waiting, reply=True, timeout=5)
    gate.touch()
    job = ended(repository, waiting)
    assert (job.status, job.attempt) == ("cancelled", 0)
    assert starts(probe_log, waiting) == 0


def test_a_revoke_of_a_job_that_waits_is_no_matter_of_the_worker_that_heard_it(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    control: Any,
    tmp_path: Path,
) -> None:
    """Celery remembers a revoke for as long as the worker lives."""
    gate = tmp_path / "gate"
    start_worker("-c", "1", **QUICK)
    running(submit, probe_log, ["wait_for", str(gate)])
    waiting, other = submit(), submit()
    assert control.revoke([waiting, str(uuid4())], reply=True, timeout=5)
    job = ended(repository, waiting)
    assert (job.status, job.attempt) == ("cancelled", 0)
    gate.touch()
    assert ended(repository, other).status == "completed"


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("step", ["wait_for", pytest.param("await_for", marks=LONG)])
def test_a_running_job_that_is_terminated_ends_cancelled(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    control: Any,
    tmp_path: Path,
    step: str,
    signal: str,
) -> None:
    start_worker("-c", "1", **{**QUICK, "CL_ML_TOOLS_CANCEL_GRACE_SECONDS": "30"})
    job_id = running(submit, probe_log, [step, NEVER])
    pool_process = process_of(tmp_path, job_id)
    control.terminate(job_id, signal=signal)
    job = ended(repository, job_id)
    assert (job.status, job.crashes) == ("cancelled", 0)
    wait_until(lambda: not is_alive(pool_process))
    assert ended(repository, submit()).status == "completed"
    assert starts(probe_log, job_id) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("order", ["revoke", "terminate"])
def test_a_running_job_that_is_revoked_in_any_way_ends_cancelled_on_any_pool(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    control: Any,
    pool: str,
    order: str,
) -> None:
    start_worker("-c", "1", "--pool", pool, **QUICK)
    job_id = running(submit, probe_log, ["await_for", NEVER])
    getattr(control, order)(job_id)
    assert ended(repository, job_id).status == "cancelled"
    assert ended(repository, submit()).status == "completed"


def test_a_retried_job_can_be_terminated_by_its_new_id(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    control: Any,
) -> None:
    start_worker("-c", "1", **QUICK)
    job_id = running(submit, probe_log, ["wait_for", NEVER])
    control.terminate(job_id)
    ended(repository, job_id)
    repository.retry_job(job_id)
    wait_for_word(probe_log, job_id, "start", times=2)
    control.terminate(f"{job_id}.1")
    job = ended(repository, job_id)
    assert (job.status, job.attempt, job.retries) == ("cancelled", 2, 1)


def test_a_job_is_terminated_although_a_duplicate_of_it_was_refused_on_the_same_node(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    control: Any,
) -> None:
    worker = start_worker("-c", "2", **QUICK)
    job_id = running(submit, probe_log, ["wait_for", NEVER])
    send_again(repository, job_id)
    worker.wait_for(f"job {job_id} is not started: held")
    control.terminate(job_id)
    assert ended(repository, job_id).status == "cancelled"


def send_again(repository: CeleryJobRepository, job_id: str) -> None:
    """Double the job's message."""
    job = record(repository, job_id)
    assert repository.send(Dispatch(job_id, job.task_type, job.priority, 1, job.retries, ()))


def test_a_terminate_that_cannot_be_recorded_is_recorded_later(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    control: Any,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "30", **record_through(link, redis_server)}
    start_worker("-c", "1", **settings)
    job_id = running(submit, probe_log, ["wait_for", NEVER])
    pool_process = process_of(tmp_path, job_id)
    link.cut()
    control.terminate(job_id)
    wait_until(lambda: not is_alive(pool_process))
    assert record(repository, job_id).status == "processing"
    link.mend()
    assert ended(repository, job_id).status == "cancelled"
