"""Recovery and a broker that does not take its messages."""

from collections.abc import Callable
from typing import Any

from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.recovery import recover
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery


class Broker:
    """Takes messages, or does not."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.tried: list[str] = []
        self.taken: list[str] = []

    def send(self, dispatch: Dispatch) -> bool:
        self.tried.append(dispatch.job_id)
        if dispatch.task_type in self.away:
            return False
        self.taken.append(dispatch.job_id)
        return True


def step_of(store: RedisJobStore, broker: Broker) -> Callable[[int], None]:
    """A step of recovery after so many seconds."""
    recovery = RedisRecovery(
        store, lease_seconds=30, max_leases_lost=10, lost_message_seconds=60, retention_days=0
    )

    def step(seconds: int) -> None:
        client: Any = store.client
        client.hincrby(store.keys("meta"), "time_offset_ms", seconds * 1000)
        recover(recovery, broker.send)

    return step


def test_a_job_is_sent_within_two_steps_however_long_the_broker_was_away(store: RedisJobStore) -> None:
    broker = Broker()
    broker.away = {"probe"}
    step = step_of(store, broker)
    store.add(Job(job_id="a", task_type="probe", params={}))
    for _ in range(120):
        step(61)
    broker.away.clear()
    step(61)
    step(61)
    assert broker.taken == ["a"]


def test_lost_messages_are_looked_for_anew_when_somebody_comes_who_takes_the_jobs(
    store: RedisJobStore,
) -> None:
    """The intervals have grown meanwhile."""
    broker = Broker()
    step = step_of(store, broker)
    store.add(Job(job_id="a", task_type="probe", params={}))
    for _ in range(120):
        step(61)
    broker.taken.clear()
    while not broker.taken:
        step(61)
    # The next look is an hour away.
    broker.taken.clear()
    store.scripts.run("announce", "other", 30_000, "another")
    step(61)
    step(61)
    assert broker.taken == []
    for _ in range(2):
        store.scripts.run("announce", "here", 30_000, "probe", "another")
        step(61)
    assert broker.taken == ["a"]


def test_a_queue_that_takes_nothing_is_tried_once_a_step_and_holds_up_no_other(store: RedisJobStore) -> None:
    broker = Broker()
    broker.away = {"bad"}
    step = step_of(store, broker)
    for priority in range(11):
        for task_type in ("bad", "good"):
            job = Job(job_id=f"{task_type}-{priority}", task_type=task_type, params={})
            store.add(job, priority=priority)
    step(0)
    step(61)
    assert len([job_id for job_id in broker.tried if job_id.startswith("bad")]) == 1
    assert len(broker.taken) == 11
