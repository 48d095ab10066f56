"""What recovery does to the record, act by act, on a server whose clock the tests move."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cl_ml_tools.common.job_leases import (
    Claim,
    Dispatch,
    Outcome,
    Owner,
    Refusal,
    RequeueCause,
    RequeueState,
)
from cl_ml_tools.common.schemas import Job, JobRecord, JobStatus
from cl_ml_tools.errors import JobStateError, StoreUnavailableError
from cl_ml_tools.recovery import recover
from cl_ml_tools.stores import redis_recovery
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery

HERE = Owner("here", 7)
LEASE_SECONDS = 30
PATIENCE_SECONDS = 60


@pytest.fixture
def recovery(store: RedisJobStore) -> RedisRecovery:
    return RedisRecovery(
        store,
        lease_seconds=LEASE_SECONDS,
        max_leases_lost=3,
        lost_message_seconds=PATIENCE_SECONDS,
        retention_days=0,
    )


@pytest.fixture
def wait(store: RedisJobStore) -> Callable[[float], None]:
    """Let time pass at the server."""
    client: Any = store.client

    def pass_time(seconds: float) -> None:
        client.hincrby(store.keys("meta"), "time_offset_ms", int(seconds * 1000))

    return pass_time


@pytest.fixture
def own_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


def add(
    store: RedisJobStore,
    job_id: str = "a",
    *,
    not_before: datetime | None = None,
    expires: datetime | None = None,
) -> Dispatch:
    job = Job(job_id=job_id, task_type="probe", params={})
    return store.add(job, not_before=not_before, expires=expires)


def claim(store: RedisJobStore, job_id: str = "a", token: str = "t", sequence: int = 0) -> Claim | Refusal:
    return store.claim(job_id, token=token, owner=HERE, sequence=sequence, lease_seconds=LEASE_SECONDS)


def record(store: RedisJobStore, job_id: str = "a") -> JobRecord:
    found = store.get(job_id)
    assert found is not None
    return found


def oldest_wait(store: RedisJobStore) -> float | None:
    (milliseconds, *_) = store.scripts.run("service")
    return round(int(milliseconds) / 1000) if milliseconds else None


def test_a_job_waits_since_it_may_start(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    """The longest wait is what makes a service not ready."""
    assert oldest_wait(store) is None
    later = datetime.now(UTC) + timedelta(hours=5)
    add(store, "later", not_before=later)
    assert oldest_wait(store) is None
    wait(5 * 3600)
    recover(recovery, lambda _: True, lambda _: None)
    assert oldest_wait(store) == 0
    wait(7)
    add(store, "a")
    assert oldest_wait(store) == 7
    claim(store, "later")
    wait(3)
    assert oldest_wait(store) == 3
    claim(store)
    wait(7200)
    store.requeue("a", owner=HERE, cause=RequeueCause.RELEASED, detail="")
    assert oldest_wait(store) == 0
    store.cancel("a")
    wait(86_400)
    store.retry("a")
    assert oldest_wait(store) == 0


def test_a_server_that_is_full_still_lets_go_what_was_kept_long_enough(own_server: EmbeddedRedis) -> None:
    """Or it stays full."""
    with RedisJobStore(own_server.redis_url) as store:
        add(store)
        claim(store)
        store.finish("a", token="t", outcome=Outcome(JobStatus.COMPLETED))
        recovery = RedisRecovery(
            store, lease_seconds=30, max_leases_lost=3, lost_message_seconds=60, retention_days=0.0001
        )
        client: Any = store.client
        client.hset(store.keys("meta"), "time_offset_ms", 3_600_000)
        client.config_set("maxmemory", "1")
        gone: list[str] = []
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            recover(recovery, lambda _: True, gone.append)
        assert gone == ["a"]
        assert store.get("a") is None


def test_after_an_outage_everybody_has_a_lease_to_say_that_they_live(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    add(store)
    claim(store)
    store.extend("another", [], lease_seconds=LEASE_SECONDS)
    wait(10 * LEASE_SECONDS)
    for status in ("processing", "processing", "processing", "queued"):
        recover(recovery, lambda _: True, lambda _: None)
        assert record(store).status == status
        wait(LEASE_SECONDS / 3 + 1)


def test_who_keeps_the_lease_of_a_job_serves_its_type(
    store: RedisJobStore, wait: Callable[[float], None]
) -> None:
    def serving() -> list[str]:
        return list(store.scripts.run("service"))[1:]

    store.scripts.run("announce", "here", 30_000, "probe", "other")
    add(store)
    claim(store)
    for _ in range(4):
        wait(20)
        store.extend("here", [("a", "t")], lease_seconds=LEASE_SECONDS)
    assert serving() == ["here probe"]
    store.scripts.run("announce", "here", 30_000)
    store.extend("here", [("a", "t")], lease_seconds=LEASE_SECONDS)
    assert serving() == [], "it has said so itself"


def test_a_clock_that_goes_back_keeps_no_lease_of_a_dead_node_alive(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    """Redis moves to a host whose clock is behind."""
    add(store)
    wait(3600)
    claim(store)
    store.extend("another", [], lease_seconds=LEASE_SECONDS)
    wait(-3600)
    for _ in range(5):
        store.extend("another", [], lease_seconds=LEASE_SECONDS)
        wait(LEASE_SECONDS / 3)
    recover(recovery, lambda _: True, lambda _: None)
    assert (record(store).status, record(store).leases_lost) == ("queued", 1)


def lose_the_lease(store: RedisJobStore, wait: Callable[[float], None]) -> None:
    """The node of the job that runs is gone; others go on looking after their leases."""
    for _ in range(4):
        store.extend("another", [], lease_seconds=LEASE_SECONDS)
        wait(LEASE_SECONDS / 3)
    store.extend("another", [], lease_seconds=LEASE_SECONDS)


def test_a_job_that_has_expired_is_cancelled_by_its_claim(
    store: RedisJobStore, wait: Callable[[float], None]
) -> None:
    add(store, expires=datetime.now(UTC) + timedelta(seconds=50))
    wait(100)
    assert claim(store) is Refusal.CANCELLED
    assert (record(store).status, record(store).error_message) == ("cancelled", "expired before it ran")


def test_a_claim_that_a_server_executes_after_its_deadline_starts_nothing(store: RedisJobStore) -> None:
    add(store)
    word, now_ms = store.scripts.run("claim", "a", "t", "here", 7, 0, LEASE_SECONDS * 1000, 3, 1)
    assert word == "late"
    assert now_ms > 1
    assert record(store).status == "queued"


def test_a_job_that_is_lost_with_its_node_so_often_ends_in_error(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    add(store)
    for number in (1, 2, 3):
        assert isinstance(claim(store, token=f"t{number}"), Claim)
        lose_the_lease(store, wait)
        kind = "error" if number == 3 else "queued"
        assert recovery.recover_leases().acts == [(kind, "a")]
    ended = record(store)
    assert (ended.status, ended.leases_lost, len(ended.history)) == ("error", 3, 3)
    assert "lost 3 times" in str(ended.error_message)


def test_a_job_that_is_taken_back_stands_in_its_line_under_a_new_number(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    first = add(store)
    claim(store)
    lose_the_lease(store, wait)
    (again,) = recovery.recover_leases().dispatches
    assert again.sequence > first.sequence
    assert store.peek(["probe"]) == ["probe"]
    # Its message is lost too: that is noticed.
    add(store, "b")
    claim(store, "b", sequence=again.sequence + 1)
    recovery.recover_messages()
    wait(PATIENCE_SECONDS + 1)
    recovery.recover_messages()
    wait(PATIENCE_SECONDS + 1)
    assert recovery.recover_messages().acts == [("resent", "a")]


def test_a_job_that_had_to_stop_is_cancelled_when_its_lease_ends(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    add(store)
    claim(store)
    assert store.cancel("a") == "stopping"
    assert record(store).status == "processing", "its run is asked, and ends it"
    lose_the_lease(store, wait)
    assert recovery.recover_leases().acts == [("cancelled", "a")]
    assert record(store).status == "cancelled"


def test_a_deleted_job_is_gone_when_its_lease_ends(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    add(store)
    claim(store)
    store.delete("a")
    lose_the_lease(store, wait)
    assert recovery.recover_leases().acts == [("deleted", "a")]
    assert store.states(["a"]) == {"a": None}


def test_a_run_of_before_cannot_requeue_the_job(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    add(store)
    claim(store, token="first")
    lose_the_lease(store, wait)
    recovery.recover_leases()
    claim(store, token="second")
    # Of the same process, as on the threads pool.
    late = store.requeue("a", owner=HERE, cause=RequeueCause.FAILED, detail="", token="first", max_retries=9)
    assert late.state is RequeueState.LOST
    assert record(store).status == "processing"


def test_failed_tries_end_at_their_limit_and_a_person_may_begin_anew(store: RedisJobStore) -> None:
    add(store)
    for number, state in [(1, RequeueState.QUEUED), (2, RequeueState.QUEUED), (3, RequeueState.ENDED)]:
        claim(store, token=f"t{number}")
        failed = store.requeue(
            "a", owner=HERE, cause=RequeueCause.FAILED, detail="no", token=f"t{number}", max_retries=2
        )
        assert failed.state is state
    assert (record(store).status, record(store).error_message) == ("error", "no")
    store.retry("a")
    claim(store, token="t4")
    again = store.requeue("a", owner=HERE, cause=RequeueCause.FAILED, detail="no", token="t4", max_retries=2)
    assert again.state is RequeueState.QUEUED, "all its tries are there again"


def test_only_what_was_not_completed_is_retried_and_a_repeat_is_the_same_retry(store: RedisJobStore) -> None:
    add(store)
    claim(store)
    store.finish("a", token="t", outcome=Outcome(JobStatus.COMPLETED, task_output={}))
    with pytest.raises(JobStateError):
        store.retry("a")
    add(store, "b")
    store.cancel("b")
    assert store.scripts.run("retry", "b", "once")[0] == "queued"
    assert store.scripts.run("retry", "b", "once")[0] == "queued"
    assert record(store, "b").retries == 1
    with pytest.raises(JobStateError):
        store.retry("b")


def test_all_that_were_overtaken_are_sent_again(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    for job_id in "abc":
        add(store, job_id)
    last = add(store, "d")
    claim(store, "d", sequence=last.sequence)
    recovery.recover_messages()
    wait(PATIENCE_SECONDS + 1)
    assert [job_id for _, job_id in recovery.recover_messages().acts] == ["a", "b", "c"]


def test_a_line_that_stands_still_is_asked_at_growing_intervals(
    store: RedisJobStore, recovery: RedisRecovery, wait: Callable[[float], None]
) -> None:
    add(store)
    recovery.recover_messages()
    sent = []
    for _ in range(10):
        wait(PATIENCE_SECONDS)
        sent.append(len(recovery.recover_messages().acts))
    assert sent == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0], "after 1, 2 and 4 times the patience"


def test_a_step_does_all_that_is_due_in_bounded_chunks(
    store: RedisJobStore,
    recovery: RedisRecovery,
    wait: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_recovery, "CHUNK", 2)
    for number in range(5):
        add(store, f"j{number}", not_before=datetime.now(UTC) + timedelta(seconds=50))
    wait(100)
    sent: list[str] = []

    def send(dispatch: Dispatch) -> bool:
        sent.append(dispatch.job_id)
        return True

    assert recover(recovery, send)["queued"] == 5
    assert sorted(sent) == [f"j{number}" for number in range(5)]
