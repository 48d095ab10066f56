"""Workers that poll, on the queues that Celery workers consume."""

import asyncio
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PROBE_PLUGINS, Environment, Process, free_port, wait_until
from kombu.exceptions import OperationalError
from kombu.message import Message
from plain_implementations import MemoryRepository
from redis.exceptions import ConnectionError as RedisConnectionError

from cl_ml_tools.app import create_repository
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.celery_bridge.queues import queue_name
from cl_ml_tools.common.job_leases import Owner
from cl_ml_tools.common.schemas import Job, JobRecord
from cl_ml_tools.errors import InvalidJobError, StoreUnavailableError
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.worker import Worker

Submit = Callable[..., str]
StartWorker = Callable[..., Process]

BOTH = ["probe", "probe_other"]

POLLING_LOOP = """
import asyncio
from cl_ml_tools.app import create_repository
from cl_ml_tools.worker import Worker

async def main():
    worker = Worker(create_repository())
    while True:
        if not await worker.run_once():
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


@pytest.fixture
def stranger(environment: Environment) -> Iterator[CeleryJobRepository]:
    """A second repository on the same records and broker, as another process has it."""
    repository = create_repository(Settings.from_environment(environment.variables))
    yield repository
    repository.close()


@pytest.fixture
def worker(repository: CeleryJobRepository, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker in this process, with leases of a second."""
    monkeypatch.syspath_prepend(str(PROBE_PLUGINS))
    monkeypatch.setenv("CL_ML_TOOLS_LEASE_SECONDS", "1")
    return Worker(repository)


def record(repository: CeleryJobRepository, job_id: str) -> JobRecord:
    job = repository.get_job(job_id)
    assert job is not None
    return job


def messages_left(repository: CeleryJobRepository) -> int:
    """How many messages lie in the broker, unacknowledged ones included."""
    client = repository.store.client
    levels = ["", *(f"\x06\x16{level}" for level in range(1, 10))]
    waiting = sum(int(client.llen(f"{queue_name(name)}{level}")) for name in BOTH for level in levels)
    return waiting + int(client.hlen("unacked")) + int(client.zcard("unacked_index"))


def fetch_all(repository: CeleryJobRepository, task_types: list[str]) -> list[str]:
    fetched = []
    while (job := repository.fetch_next_job(task_types)) is not None:
        assert (job.status, job.attempt) == ("processing", 1)
        fetched.append(job.job_id)
    return fetched


# --- taking a message


def test_the_most_urgent_message_of_several_queues_is_fetched_first(
    submit: Submit, repository: CeleryJobRepository
) -> None:
    given = [(3, 0), (7, 1), (5, 0), (0, 1), (10, 0), (5, 0), (6, 0)]
    ids = [submit(priority=priority, task_type=BOTH[kind]) for priority, kind in given]
    assert fetch_all(repository, BOTH) == [ids[index] for index in (4, 1, 6, 2, 5, 0, 3)]
    assert repository.fetch_next_job(BOTH) is None
    assert messages_left(repository) == 0


@pytest.mark.redis_broker
def test_only_the_task_types_asked_for_are_fetched(submit: Submit, repository: CeleryJobRepository) -> None:
    other = submit(priority=10, task_type="probe_other")
    wanted = submit(priority=1)
    assert fetch_all(repository, ["probe"]) == [wanted]
    assert repository.fetch_next_job([]) is None
    assert repository.fetch_next_job(["never heard of"]) is None
    assert record(repository, other).status == "queued"
    assert messages_left(repository) == 1


def test_each_poller_and_each_type_that_it_polls_for_is_told(repository: CeleryJobRepository) -> None:
    repository.claim_next_job(["a"], owner=Owner("one", 1), lease_seconds=30)
    repository.claim_next_job(["b"], owner=Owner("another", 1), lease_seconds=30)
    repository.claim_next_job(["c"], owner=Owner("one", 1), lease_seconds=30)
    assert repository.service().workers == {"a": 1, "b": 1, "c": 1}


def test_messages_of_jobs_that_are_not_to_be_done_are_taken_out(
    submit: Submit, repository: CeleryJobRepository
) -> None:
    cancelled, deleted, ended = (submit(priority=9) for _ in range(3))
    repository.cancel_job(cancelled)
    repository.delete_job(deleted)
    assert repository.update_job(ended, status="error", error_message="withdrawn")
    wanted = submit(priority=1)
    assert fetch_all(repository, BOTH) == [wanted]
    assert messages_left(repository) == 0
    assert [record(repository, job_id).status for job_id in (cancelled, ended)] == ["cancelled", "error"]


@pytest.mark.redis_broker
def test_messages_that_are_none_of_ours_are_dropped_and_told(
    submit: Submit, repository: CeleryJobRepository, caplog: pytest.LogCaptureFixture
) -> None:
    queue, client = queue_name("probe"), repository.store.client
    app = repository._app
    app.send_task("somebody.elses", ("a",), queue=queue, priority=0)
    app.send_task("somebody.elses", (), {"job_id": 1}, queue=queue, priority=0)
    with app.producer_or_acquire() as producer:
        for body, kind in [(b"\x80\x04N.", "application/x-python-serialize"), (b"text", "text/plain")]:
            producer.publish(body, routing_key=queue, content_type=kind, content_encoding="binary")
    for garbage in ("not even JSON", "[]", "{}", '{"properties": {}}', b"\xff\xfe"):
        client.lpush(queue, garbage)
    wanted = submit(priority=1)
    with caplog.at_level(logging.WARNING):
        assert fetch_all(repository, BOTH) == [wanted]
    assert messages_left(repository) == 0
    assert len([entry for entry in caplog.records if "dropped" in entry.getMessage()]) == 9


@pytest.mark.redis_broker
def test_a_job_whose_message_is_lost_keeps_nobody_waiting(
    submit: Submit, repository: CeleryJobRepository
) -> None:
    lost = submit(priority=10)
    repository.store.client.delete(queue_name("probe"))
    start = time.monotonic()
    assert repository.fetch_next_job(BOTH) is None
    wanted = submit(priority=1, task_type="probe_other")
    assert fetch_all(repository, BOTH) == [wanted]
    assert time.monotonic() - start < 2
    assert record(repository, lost).status == "queued"


@pytest.mark.redis_broker
def test_a_message_goes_back_when_the_record_cannot_be_reached(
    submit: Submit, repository: CeleryJobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    urgent, calm = submit(priority=6), submit(priority=2)
    with monkeypatch.context() as patch:

        def away(*_: Any, **__: Any) -> None:
            raise StoreUnavailableError("away")

        patch.setattr(RedisJobStore, "claim", away)
        with pytest.raises(StoreUnavailableError):
            repository.fetch_next_job(BOTH)
    assert messages_left(repository) == 2
    assert fetch_all(repository, BOTH) == [urgent, calm]
    assert messages_left(repository) == 0


def test_a_claim_stands_when_the_broker_goes_while_its_message_is_acknowledged(
    submit: Submit,
    repository: CeleryJobRepository,
    stranger: CeleryJobRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = submit()
    with monkeypatch.context() as patch:
        acknowledge = Message.ack

        def reply_lost(message: Message) -> None:
            acknowledge(message)  # type: ignore[no-untyped-call]
            raise RedisConnectionError("reset by peer")

        patch.setattr(Message, "ack", reply_lost)
        job = repository.fetch_next_job(BOTH)
    assert job is not None
    assert job.job_id == job_id
    assert stranger.fetch_next_job(BOTH) is None
    assert repository.update_job(job_id, status="completed", task_output={})


def test_a_broker_that_is_away_is_told_within_seconds(
    submit: Submit, repository: CeleryJobRepository, environment: Environment
) -> None:
    submit()
    nowhere = {"CL_ML_TOOLS_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"}
    lost = create_repository(Settings.from_environment({**environment.variables, **nowhere}))
    start = time.monotonic()
    with pytest.raises(OperationalError):
        lost.fetch_next_job(BOTH)
    assert time.monotonic() - start < 10
    lost.close()


# --- what a bare caller says about its job


def test_who_fetched_a_job_reports_and_completes_it(submit: Submit, repository: CeleryJobRepository) -> None:
    job_id = submit()
    assert repository.fetch_next_job(BOTH)
    assert repository.update_job(job_id, progress=40)
    assert (record(repository, job_id).status, record(repository, job_id).progress) == ("processing", 40)
    assert repository.update_job(job_id, progress=100)
    assert record(repository, job_id).progress == 99
    assert repository.update_job(job_id, status="completed", progress=100, task_output={"n": 1})
    job = record(repository, job_id)
    assert (job.status, job.progress, job.task_output) == ("completed", 100, {"n": 1})
    assert not repository.update_job(job_id, status="error", error_message="too late")
    assert not repository.update_job(job_id, progress=3)
    assert record(repository, job_id).status == "completed"


def test_what_was_said_on_the_way_is_stored_with_the_end(
    submit: Submit, repository: CeleryJobRepository
) -> None:
    job_id = submit()
    assert repository.fetch_next_job(BOTH)
    assert repository.update_job(job_id, error_message="no such colour")
    assert repository.update_job(job_id, status="error")
    job = record(repository, job_id)
    assert (job.status, job.error_message, job.task_output) == ("error", "no such colour", None)


def test_a_job_that_is_given_back_is_fetched_again(
    submit: Submit, repository: CeleryJobRepository, stranger: CeleryJobRepository
) -> None:
    job_id = submit()
    assert repository.fetch_next_job(BOTH)
    assert repository.update_job(job_id, status="queued")
    assert record(repository, job_id).status == "queued"
    assert not repository.update_job(job_id, status="processing")
    again = stranger.fetch_next_job(BOTH)
    assert again is not None
    assert (again.job_id, again.attempt, again.history) == (job_id, 2, [])
    assert not repository.update_job(job_id, status="completed")
    assert stranger.update_job(job_id, status="completed")


@pytest.mark.parametrize(
    "fields",
    [
        {"progress": 50},
        {"status": "completed", "task_output": {"n": 2}},
        {"status": "error", "error_message": "mine"},
        {"status": "queued"},
        {"status": "processing"},
    ],
)
def test_nobody_else_changes_a_job_that_runs(
    fields: dict[str, Any],
    submit: Submit,
    repository: CeleryJobRepository,
    stranger: CeleryJobRepository,
) -> None:
    job_id = submit()
    assert repository.fetch_next_job(BOTH)
    before = record(repository, job_id)
    assert not stranger.update_job(job_id, **fields)
    assert record(repository, job_id) == before
    assert repository.update_job(job_id, status="completed", task_output={"n": 1})
    assert record(repository, job_id).task_output == {"n": 1}


def test_a_cancel_is_told_to_who_fetched_the_job(
    submit: Submit, repository: CeleryJobRepository, stranger: CeleryJobRepository
) -> None:
    job_id = submit()
    assert repository.fetch_next_job(BOTH)
    stranger.cancel_job(job_id)
    assert not repository.update_job(job_id, progress=50)
    assert repository.update_job(job_id, status="cancelled")
    assert record(repository, job_id).status == "cancelled"


def test_an_unknown_field_or_status_is_refused(submit: Submit, repository: CeleryJobRepository) -> None:
    job_id = submit()
    with pytest.raises(InvalidJobError, match="no such field of a job: colour"):
        repository.update_job(job_id, colour="red")
    with pytest.raises(InvalidJobError, match="no such status of a job: 'done'"):
        repository.update_job(job_id, status="done")
    assert not repository.update_job("unknown", progress=1)


# --- the loop


def test_the_lease_is_kept_while_a_plugin_blocks_the_loop(
    worker: Worker, submit: Submit, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    gate, store = tmp_path / "gate", repository.store
    job_id = submit(["wait_for", str(gate)])
    answers: list[bool] = []
    runner = threading.Thread(target=lambda: answers.append(asyncio.run(worker.run_once())))
    runner.start()

    def lease_end() -> float:
        return float(store.client.zscore(store.keys("leases"), job_id) or 0)

    first = wait_until(lease_end)
    wait_until(lambda: lease_end() > first + 1500, why="the lease is extended past its own length")
    assert record(repository, job_id).status == "processing"
    gate.touch()
    runner.join(10)
    assert answers == [True]
    assert (record(repository, job_id).status, record(repository, job_id).attempt) == ("completed", 1)


def test_the_loop_goes_on_after_a_plugin_has_failed(
    worker: Worker, submit: Submit, repository: CeleryJobRepository
) -> None:
    bad, good = submit(["fail", "no such colour"], priority=9), submit(["progress", 50])
    assert [asyncio.run(worker.run_once()) for _ in range(3)] == [True, True, False]
    assert record(repository, bad).error_message == "RuntimeError: no such colour"
    job = record(repository, good)
    assert (job.status, job.progress, job.task_output) == ("completed", 100, {"pid": os.getpid()})
    assert messages_left(repository) == 0


@pytest.mark.redis_broker
def test_a_try_without_a_pause_is_run_by_the_next_call(
    worker: Worker, submit: Submit, repository: CeleryJobRepository
) -> None:
    job_id = submit(["fail_for_now", "the disk is away"], task_type="probe_other")
    assert [asyncio.run(worker.run_once()) for _ in range(4)] == [True, True, True, False]
    assert (record(repository, job_id).status, record(repository, job_id).failures) == ("error", 3)


def test_no_types_are_no_job(worker: Worker, submit: Submit, repository: CeleryJobRepository) -> None:
    job_id = submit()
    assert not asyncio.run(worker.run_once([]))
    assert record(repository, job_id).status == "queued"


@pytest.mark.parametrize(("seconds", "written"), [("0", [10, 20, 30]), ("3600", [10])])
def test_progress_is_written_as_often_as_the_setting_says(
    seconds: str, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to a repository that keeps no leases."""

    class Written(MemoryRepository):
        def update_job(self, job_id: str, **fields: Any) -> bool:
            if "status" not in fields:
                progress.append(fields["progress"])
            return super().update_job(job_id, **fields)

    progress: list[int] = []
    monkeypatch.syspath_prepend(str(PROBE_PLUGINS))
    monkeypatch.setenv("CL_ML_TOOLS_PROGRESS_INTERVAL_SECONDS", seconds)
    repository = Written()
    steps = [["progress", 10], ["progress", 20], ["progress", 30]]
    params = {"log": str(tmp_path / "probe.log"), "steps": steps}
    repository.add_job(Job(job_id="a", task_type="probe", params=params))
    assert asyncio.run(Worker(repository).run_once())
    assert progress == written


# --- beside Celery workers


@pytest.mark.redis_broker
def test_a_celery_worker_takes_jobs_in_the_order_of_their_urgency(
    submit: Submit,
    start_worker: StartWorker,
    repository: CeleryJobRepository,
    probe_log: Callable[[], list[str]],
) -> None:
    dice = random.Random(7)
    given = [(dice.choice([*range(11), 9, 10]), dice.choice(BOTH)) for _ in range(40)]
    ids = [submit(priority=priority, task_type=task_type) for priority, task_type in given]
    start_worker("-c", "1")
    wait_until(lambda: len(probe_log()) == 80, why="all forty ran")
    order = [ids.index(line.split()[0]) for line in probe_log() if line.endswith("start")]
    # On Redis 9 and 10 are one level.
    levels = [min(given[index][0], 9) for index in order]
    assert levels == sorted(levels, reverse=True)
    assert {10, 9} <= {priority for priority, _ in given}
    lines = {(level, task_type) for level in range(10) for task_type in BOTH}
    for level, task_type in lines:
        line = [index for index in order if (min(given[index][0], 9), given[index][1]) == (level, task_type)]
        assert line == sorted(line), "first come, first served"


def test_two_celery_workers_and_a_polling_one_share_five_hundred_jobs(
    submit: Submit,
    start_worker: StartWorker,
    environment: Environment,
    repository: CeleryJobRepository,
    tmp_path: Path,
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "probe.log"
    polling = environment.process([sys.executable, "-c", POLLING_LOOP], {})
    try:
        wait_until(lambda: repository.service().workers, why="the polling one asks for jobs")
        # As many as can run at once: each worker has its share before any may go on.
        ids = [submit(["wait_for", str(gate)], priority=10, task_type=BOTH[n % 2]) for n in range(5)]
        ids += [submit(priority=n % 10, task_type=BOTH[n // 7 % 2]) for n in range(495)]
        celery_workers = [start_worker("-c", "2") for _ in range(2)]

        def busy() -> set[str]:
            lines = log.read_text().splitlines() if log.exists() else []
            return {line.split()[2] for line in lines if " start " in line}

        # On RabbitMQ a worker holds messages that it does not run yet, so it need not be the five.
        wait_until(lambda: len(busy()) == 5, why="all five processes run jobs")
        families = [{child.pid for child in worker.children()} for worker in celery_workers]
        gate.touch()
        wait_until(
            lambda: repository.store.client.zcard(repository.store.keys("status", "completed")) == 500,
            seconds=40,
            why="all are completed",
        )
    finally:
        polling.kill_group()
    lines = [line.split() for line in log.read_text().splitlines()]
    for word in ("start", "end"):
        assert Counter(job_id for job_id, said, _ in lines if said == word) == Counter(ids)
    done_by = Counter(int(pid) for _, said, pid in lines if said == "end")
    shares = [sum(done_by[pid] for pid in family) for family in [*families, {polling.pid}]]
    assert sum(shares) == 500
    assert all(share > 0 for share in shares), shares
    assert {record(repository, job_id).attempt for job_id in ids} == {1}
    assert messages_left(repository) == 0
    print(f"shares of the 500 jobs: {shares}")
