"""Many jobs at once, and how messages reach the broker."""

import uuid
from typing import Any

import pytest
from harness import all_jobs

from cl_ml_tools import Job
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.celery_bridge.queues import queue_name
from cl_ml_tools.errors import (
    DuplicateJobError,
    InvalidJobError,
    InvalidJobIdError,
    MLToolsError,
    StoreUnavailableError,
)
from cl_ml_tools.stores import redis_jobs
from cl_ml_tools.stores.redis_jobs import RedisJobStore


def jobs(count: int, **fields: Any) -> list[Job]:
    return [
        Job(job_id=str(uuid.uuid4()), task_type="probe", params={"number": n}, **fields) for n in range(count)
    ]


def taken(repository: CeleryJobRepository) -> list[str]:
    """The ids of the jobs that a worker gets, in its order."""
    ids = []
    while (job := repository.fetch_next_job(["probe"])) is not None:
        ids.append(job.job_id)
    return ids


@pytest.mark.parametrize("bulk", [500, 7])
def test_many_jobs_are_accepted_and_taken_in_their_order(
    repository: CeleryJobRepository, bulk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_jobs, "BULK", bulk)
    many = jobs(20)
    ids = repository.add_jobs(many, created_by="ada", priority=7)
    assert ids == [job.job_id for job in many]
    records = [repository.get_job(job_id) for job_id in ids]
    assert all(record and (record.created_by, record.priority) == ("ada", 7) for record in records)
    assert taken(repository) == ids
    assert repository.add_jobs([]) == []


@pytest.mark.redis_broker
def test_when_the_store_fails_on_the_way_the_jobs_before_are_sent_already(
    repository: CeleryJobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_jobs, "BULK", 2)
    kept, lost = jobs(2), jobs(1)
    scripts = repository.store.scripts
    run_each = scripts.run_each

    def failing(name: str, calls: Any) -> list[Any]:
        if any(lost[0].job_id in call for call in calls):
            raise StoreUnavailableError("Redis does not answer")
        return run_each(name, calls)

    monkeypatch.setattr(scripts, "run_each", failing)
    with pytest.raises(StoreUnavailableError):
        repository.add_jobs([*kept, *lost])
    assert taken(repository) == [job.job_id for job in kept]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"job_id": "../x", "task_type": "probe", "params": {}}, InvalidJobIdError),
        ({"job_id": "a", "task_type": "probe", "params": {"x": float("nan")}}, InvalidJobError),
        ({"job_id": "a", "task_type": "probe", "params": {}, "status": "completed"}, InvalidJobError),
    ],
)
def test_one_that_cannot_be_stored_keeps_all_from_being_stored(
    repository: CeleryJobRepository, wrong: dict[str, Any], error: type[MLToolsError]
) -> None:
    with pytest.raises(error):
        repository.add_jobs([*jobs(2), Job(**wrong)])
    assert all_jobs(repository.store) == []


def test_an_id_that_is_there_twice_is_refused_before_anything_is_stored(
    repository: CeleryJobRepository,
) -> None:
    (one,) = jobs(1)
    with pytest.raises(InvalidJobError, match="same id"):
        repository.add_jobs([one, *jobs(1), one])
    assert all_jobs(repository.store) == []


def test_ids_that_are_known_are_told_and_the_other_jobs_run(repository: CeleryJobRepository) -> None:
    first, known, last = jobs(3)
    repository.add_job(known)
    with pytest.raises(DuplicateJobError, match=known.job_id) as told:
        repository.add_jobs([first, known, last])
    assert told.value.job_ids == (known.job_id,)
    assert taken(repository) == [known.job_id, first.job_id, last.job_id]


@pytest.mark.redis_broker
def test_many_jobs_take_a_few_round_trips(repository: CeleryJobRepository, store: RedisJobStore) -> None:
    repository.add_jobs(jobs(1))

    def reads() -> int:
        stats: Any = store.client.info("stats")
        return int(stats["total_reads_processed"])

    before = reads()
    repository.add_jobs(jobs(100))
    # One for the records, one for the messages and their events; the server reads them in parts of 16 kB.
    assert reads() - before < 50
    before = reads()
    repository.add_job(jobs(1)[0])
    assert reads() - before <= 3, "a record, a message with its event, and this question"


@pytest.mark.redis_broker
def test_a_message_is_sent_at_once_although_the_connection_to_the_broker_was_lost(
    repository: CeleryJobRepository, store: RedisJobStore
) -> None:
    repository.add_job(jobs(1)[0])
    client: Any = store.client
    for connection in client.client_list():
        if connection["id"] != str(client.client_id()):
            client.client_kill_filter(_id=connection["id"])
    repository.add_job(jobs(1)[0])
    assert client.llen(f"{queue_name('probe')}\x06\x164") == 2


def test_scripts_that_the_server_has_forgotten_are_told_again(
    repository: CeleryJobRepository, store: RedisJobStore
) -> None:
    store.client.script_flush()
    ids = repository.add_jobs(jobs(3))
    assert taken(repository) == ids
