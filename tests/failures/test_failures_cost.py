"""What a step of recovery costs the server, as the server itself counts it."""

from datetime import UTC, datetime, timedelta

import pytest
import staging

from cl_ml_tools.common.job_leases import Outcome, Owner
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.recovery import recover
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery

redis_server = staging.own_server

DONE = Outcome(JobStatus.COMPLETED, task_output={"width": 3})


@pytest.fixture
def recovery(store: RedisJobStore) -> RedisRecovery:
    # Nothing is to be done in an hour, which is longer than the test.
    return RedisRecovery(
        store, lease_seconds=3600, max_leases_lost=10, lost_message_seconds=3600, retention_days=30
    )


def claim(store: RedisJobStore, job_id: str) -> None:
    store.claim(job_id, token="t", owner=Owner("n", 1), sequence=0, lease_seconds=3600)


def add_finished(store: RedisJobStore, numbers: range) -> None:
    for number in numbers:
        job_id = f"done-{number}"
        store.add(Job(job_id=job_id, task_type=f"probe-{number % 3}", params={}), priority=number % 11)
        claim(store, job_id)
        store.finish(job_id, token="t", outcome=DONE)


def step(store: RedisJobStore, recovery: RedisRecovery) -> tuple[int, float]:
    """How many commands a step makes the server do, and for how many microseconds; the best of many."""
    costs = []
    for _ in range(30):
        store.client.config_resetstat()
        done = recover(recovery, lambda _: True)
        assert not done
        stats = store.client.info("commandstats")
        ours = {
            name: each
            for name, each in stats.items()
            if name not in ("cmdstat_config|resetstat", "cmdstat_info")
        }
        scripts = [each for name, each in ours.items() if name in ("cmdstat_evalsha", "cmdstat_eval")]
        costs.append((sum(each["calls"] for each in ours.values()), sum(each["usec"] for each in scripts)))
    return min(costs)


@pytest.fixture
def alive(store: RedisJobStore) -> None:
    """Jobs that recovery has to look at: running, queued, due later, expiring later."""
    later = datetime.now(UTC) + timedelta(hours=1)
    for number in range(20):
        store.add(
            Job(job_id=f"queued-{number}", task_type=f"probe-{number % 3}", params={}), priority=number % 11
        )
        store.add(Job(job_id=f"due-{number}", task_type="probe", params={}), not_before=later)
        store.add(Job(job_id=f"expiring-{number}", task_type="probe", params={}), expires=later)
        store.add(Job(job_id=f"running-{number}", task_type="probe", params={}))
        claim(store, f"running-{number}")


@pytest.mark.parametrize(
    "many", [3_000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_a_step_costs_the_same_whatever_has_finished(
    store: RedisJobStore, recovery: RedisRecovery, alive: None, many: int
) -> None:
    add_finished(store, range(100))
    recover(recovery, lambda _: True)
    few_commands, few_usec = step(store, recovery)
    add_finished(store, range(100, many))
    assert store.client.zcard(store.keys("finished")) == many
    many_commands, many_usec = step(store, recovery)
    print(
        f"100 finished: {few_commands} commands, {few_usec} us; {many} finished: {many_commands}, {many_usec} us"
    )
    assert many_commands == few_commands
    assert many_usec < 2 * few_usec + 200
