"""The store beside a plain model of it: any acts in any order, with lost messages, lost replies and lost time.

On a real server, whose clock the scripts shift (``time_offset_ms``): a tick is ten minutes of it. About 20 s as it
stands; ``--hypothesis-profile long`` goes on for half an hour.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from store_model import TERMINAL, Model

from cl_ml_tools.common.job_leases import Claim, Dispatch, Outcome, Owner, RequeueCause, RequeueState
from cl_ml_tools.common.job_recovery import Recovered
from cl_ml_tools.common.schemas import Job, JobRecord, JobStatus
from cl_ml_tools.errors import JobStateError, UnknownJobError
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery

# So long that no example takes as long, however busy the machine is: real time goes on beside the ticks.
TICK_SECONDS = 600
LEASE_SECONDS = 3.0 * TICK_SECONDS
PATIENCE_SECONDS = 6.0 * TICK_SECONDS
MAX_CRASHES = 3
MAX_LEASES_LOST = 4
MAX_JOBS = 6

NODES = st.sampled_from(["n1", "n2"])
INDEX = st.integers(0, 999)
LOSE = st.sampled_from([False, False, False, True])


class StoreMachine(RuleBasedStateMachine):
    """Each rule does one act on the store and on the model, and compares their answers."""

    server: EmbeddedRedis

    def __init__(self) -> None:
        super().__init__()
        self.store = RedisJobStore(self.server.redis_url, max_crashes=MAX_CRASHES)
        self.client = _untyped(self.store.client)
        self.client.flushall()
        self.recovery = RedisRecovery(
            self.store,
            lease_seconds=LEASE_SECONDS,
            max_leases_lost=MAX_LEASES_LOST,
            lost_message_seconds=PATIENCE_SECONDS,
            retention_days=0,
        )
        self.model = Model(MAX_CRASHES, MAX_LEASES_LOST)
        self.broker: list[Dispatch] = []
        # Every claim that was ever given, dead or alive: job, token, node, process.
        self.runs: list[tuple[str, str, str, int]] = []
        self.added = 0
        self.sequences: dict[int, int] = {}
        self.sent: dict[str, tuple[int, int]] = {}
        self.seen: dict[int, list[tuple[int, int]]] = {}
        self.sent_blindly: dict[int, float] = {}
        self.accepted: set[str] = set()
        self._replies_to_lose = 0
        self._really = self.client.execute_command
        self.client.execute_command = self._execute

    def _execute(self, *command: Any, **options: Any) -> Any:
        answer = self._really(*command, **options)
        if self._replies_to_lose and command[0] in ("EVAL", "EVALSHA"):
            self._replies_to_lose -= 1
            raise RedisConnectionError("the reply is lost")
        return answer

    def teardown(self) -> None:
        try:
            self.come_to_rest()
        finally:
            self.store.close()

    # acts

    @rule(
        priority=st.sampled_from([3, 5]),
        not_before=st.sampled_from([None, None, None, 2, 5]),
        expires=st.sampled_from([None, None, None, 1, 4]),
        lose=LOSE,
        lose_message=LOSE,
    )
    def submit(
        self, priority: int, not_before: int | None, expires: int | None, lose: bool, lose_message: bool
    ) -> None:
        if len(self.model.jobs) >= MAX_JOBS:
            return
        self.added += 1
        job_id = f"j{self.added}"
        base = self.server_ms()
        self._replies_to_lose = int(lose)
        dispatch = self.store.add(
            Job(job_id=job_id, task_type="probe", params={}),
            priority=priority,
            not_before=_at(base, not_before),
            expires=_at(base, expires),
        )
        now = self.model.now
        self.model.add(
            job_id,
            None if not_before is None else now + not_before,
            None if expires is None else now + expires,
        )
        self.accepted.add(job_id)
        assert (dispatch.sequence == 0) is (self.model.jobs[job_id].due is not None)
        if dispatch.sequence:
            self.send(dispatch, lost=lose_message)

    @precondition(lambda self: self.broker)
    @rule(index=INDEX, node=NODES, process=st.integers(1, 2), lose=LOSE, doubled=LOSE)
    def deliver(self, index: int, node: str, process: int, lose: bool, doubled: bool) -> None:
        place = self.next_of_a_line(index)
        dispatch = self.broker[place]
        if not doubled:
            del self.broker[place]
        if dispatch.job_id in self.model.jobs:
            self.seen.setdefault(dispatch.priority, []).append((self.model.now, dispatch.sequence))
        token = f"t{len(self.runs)}-{self.added}-{self.model.now}"
        self._replies_to_lose = int(lose)
        self.claim(dispatch.job_id, token, node, process, dispatch.sequence)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX)
    def repeat_a_claim(self, index: int) -> None:
        job_id, token, node, process = self.pick_run(index)
        job = self.model.jobs.get(job_id)
        if job is None or job.token == token:
            self.claim(job_id, token, node, process, 0)

    def claim(self, job_id: str, token: str, node: str, process: int, sequence: int) -> None:
        expected = self.model.claim(job_id, token, node, process)
        answer = self.store.claim(
            job_id, token=token, owner=Owner(node, process), sequence=sequence, lease_seconds=LEASE_SECONDS
        )
        if expected is not None:
            assert answer is expected
            return
        assert isinstance(answer, Claim), answer
        assert isinstance(answer.job, JobRecord)
        assert answer.job.attempt == self.model.jobs[job_id].attempt
        if (job_id, token, node, process) not in self.runs:
            self.runs.append((job_id, token, node, process))

    @precondition(lambda self: self.runs)
    @rule(node=NODES, by_token=st.booleans(), lose=LOSE)
    def extend(self, node: str, by_token: bool, lose: bool) -> None:
        runs = [(job_id, token if by_token else None) for job_id, token, *_ in self.runs[-8:]]
        self._replies_to_lose = int(lose)
        answer = self.store.extend(node, runs, lease_seconds=LEASE_SECONDS)
        assert answer == self.model.extend(node, runs)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, progress=st.integers(0, 99), lose=LOSE)
    def report(self, index: int, progress: int, lose: bool) -> None:
        job_id, token, *_ = self.pick_run(index)
        self._replies_to_lose = int(lose)
        answer = self.store.report(job_id, token=token, progress=progress)
        assert answer == self.model.report(job_id, token, progress)

    @precondition(lambda self: self.runs)
    @rule(index=INDEX, status=st.sampled_from(["completed", "completed", "error"]), lose=LOSE)
    def finish(self, index: int, status: str, lose: bool) -> None:
        job_id, token, *_ = self.pick_run(index)
        self._replies_to_lose = int(lose)
        answer = self.store.finish(job_id, token=token, outcome=Outcome(JobStatus(status), {"by": token}))
        assert answer == self.model.finish(job_id, token, status)

    @precondition(lambda self: self.runs)
    @rule(
        index=INDEX,
        cause=st.sampled_from(list(RequeueCause)),
        retries=st.integers(0, 2),
        delay=st.sampled_from([0, 0, 2]),
        lose=LOSE,
        lose_message=LOSE,
    )
    def requeue(
        self, index: int, cause: RequeueCause, retries: int, delay: int, lose: bool, lose_message: bool
    ) -> None:
        job_id, token, node, process = self.pick_run(index)
        expected = self.model.requeue(job_id, token, node, process, cause, retries, delay)
        # A delete has no record to know its repeat by.
        self._replies_to_lose = int(lose and expected in (RequeueState.QUEUED, RequeueState.WAITING))
        answer = self.store.requeue(
            job_id,
            owner=Owner(node, process),
            cause=cause,
            detail="staged",
            token=token,
            max_retries=retries,
            delay_seconds=delay * TICK_SECONDS,
        )
        assert answer.state == expected
        if answer.dispatch is not None:
            self.send(answer.dispatch, lost=lose_message)

    @precondition(lambda self: self.added)
    @rule(index=INDEX, lose=LOSE)
    def cancel(self, index: int, lose: bool) -> None:
        job_id = self.pick_job(index)
        self._replies_to_lose = int(lose)
        assert self.store.cancel(job_id) == self.model.cancel(job_id)

    @precondition(lambda self: self.added)
    @rule(index=INDEX, lose=LOSE, lose_message=LOSE)
    def retry(self, index: int, lose: bool, lose_message: bool) -> None:
        job_id = self.pick_job(index)
        self._replies_to_lose = int(lose)
        try:
            dispatch = self.store.retry(job_id)
        except UnknownJobError:
            answer = "unknown"
        except JobStateError:
            answer = "refused"
        else:
            answer = "queued"
            self.send(dispatch, lost=lose_message)
        assert answer == self.model.retry(job_id)

    @precondition(lambda self: self.added)
    @rule(index=INDEX, lose=LOSE)
    def delete(self, index: int, lose: bool) -> None:
        job_id = self.pick_job(index)
        was_there = self.model.visible(job_id) is not None
        self._replies_to_lose = int(lose and was_there)
        assert self.store.delete(job_id) == self.model.delete(job_id)

    @precondition(lambda self: self.broker)
    @rule(index=INDEX)
    def lose_a_message(self, index: int) -> None:
        del self.broker[index % len(self.broker)]

    @rule(ticks=st.sampled_from([1, 1, 1, 2, 4, 30]))
    def pass_time(self, ticks: int) -> None:
        """Long ones are outages: nobody extends a lease meanwhile."""
        self.model.now += ticks
        self.client.hincrby(self.store.keys("meta"), "time_offset_ms", ticks * TICK_SECONDS * 1000)

    @rule(send=st.booleans())
    def recover(self, send: bool) -> None:
        leases = self.recovery.recover_leases()
        assert set(leases.acts) == self.model.recover_leases()
        self.send_all(leases, lost=not send)
        due = self.recovery.recover_due()
        assert set(due.acts) == self.model.recover_due()
        self.send_all(due, lost=not send)
        messages = self.recovery.recover_messages()
        for _, job_id in messages.acts:
            self.check_that_patience_is_over(job_id)
        self.send_all(messages, lost=not send)

    def check_that_patience_is_over(self, job_id: str) -> None:
        """Lost messages are those overtaken long ago, and the oldest of a line that stands still, once a while."""
        assert self.model.jobs[job_id].waits_in_line, "a message is sent for what waits for none"
        line, sequence = self.sent[job_id]
        long_ago = self.model.now - PATIENCE_SECONDS / TICK_SECONDS
        if not any(seen >= sequence and since <= long_ago for since, seen in self.seen.get(line, [])):
            assert self.sent_blindly.get(line, long_ago) <= long_ago, "the oldest is sent again too soon"
            self.sent_blindly[line] = self.model.now

    # what holds after every act

    @invariant()
    def the_record_is_as_the_model_says(self) -> None:
        for job_id in self.accepted:
            job, record = self.model.visible(job_id), self.store.get(job_id)
            if job is None:
                assert record is None, record
                continue
            assert record is not None, f"{job_id} is lost"
            assert (record.status, record.progress, record.attempt) == (
                job.status,
                job.progress,
                job.attempt,
            ), job_id
            assert (record.crashes, record.leases_lost, record.failures, record.retries) == (
                job.crashes,
                job.leases_lost,
                job.failures,
                job.retries,
            )
            assert record.cancel_requested is job.cancel_requested
            assert (record.due_at is not None) is (job.due is not None)
            assert (record.finished_at is not None) is (job.status in TERMINAL)

    @invariant()
    def the_indexes_hold_what_they_should(self) -> None:
        keys, jobs = self.store.keys, self.model.jobs
        shown = {job_id: job for job_id, job in jobs.items() if not job.deleted}
        assert self.members(keys("jobs")) == set(shown)
        for status in JobStatus:
            assert self.members(keys("status", status)) == {
                job_id for job_id, job in shown.items() if job.status == status
            }
        assert self.members(keys("leases")) == {i for i, job in jobs.items() if job.status == "processing"}
        assert self.members(keys("due")) == {i for i, job in jobs.items() if job.due is not None}
        assert self.members(keys("finished")) == {i for i, job in shown.items() if job.status in TERMINAL}
        lines = [self.members(keys("queued", f"probe:{priority}")) for priority in range(11)]
        assert set().union(*lines) == {i for i, job in jobs.items() if job.waits_in_line}
        assert self.members(keys("expiring")) == {
            i for i, j in jobs.items() if j.status == "queued" and j.attempt == 0 and j.expires is not None
        }

    # words

    def come_to_rest(self) -> None:
        """Faults end: with recovery, workers that work and patience, every accepted job ends soon."""
        self._replies_to_lose = 0
        for _ in range(15):
            self.recover(send=True)
            while self.broker:
                dispatch = self.broker.pop(0)
                if dispatch.job_id in self.model.jobs:
                    self.seen.setdefault(dispatch.priority, []).append((self.model.now, dispatch.sequence))
                self.claim(dispatch.job_id, f"last{len(self.runs)}", "n3", 1, dispatch.sequence)
            for job_id, token, *_ in self.runs:
                if (job := self.model.jobs.get(job_id)) is not None and job.token == token:
                    self.store.finish(job_id, token=token, outcome=Outcome(JobStatus.COMPLETED, {}))
                    self.model.finish(job_id, token, "completed")
            self.pass_time(7)
            self.the_record_is_as_the_model_says()
            if all(job.status in TERMINAL for job in self.model.jobs.values()):
                break
        left = {job_id: job for job_id, job in self.model.jobs.items() if job.status not in TERMINAL}
        assert not left, f"never ends: {left}"
        self.the_indexes_hold_what_they_should()
        for job_id in list(self.model.jobs):
            assert self.store.delete(job_id)
        assert list(self.client.scan_iter(self.store.keys("job", "*"))) == [], "records are left"

    def server_ms(self) -> int:
        seconds, microseconds = self.client.time()
        offset = self.client.hget(self.store.keys("meta"), "time_offset_ms")
        return int(seconds * 1000 + microseconds // 1000 + int(offset or 0))

    def members(self, key: str) -> set[str]:
        return set(self.client.zrange(key, 0, -1))

    def pick_job(self, index: int) -> str:
        return f"j{max(1, self.added - index % 8)}"

    def pick_run(self, index: int) -> tuple[str, str, str, int]:
        return self.runs[-1 - index % min(8, len(self.runs))]

    def next_of_a_line(self, index: int) -> int:
        """A broker keeps the order of each line, redelivered messages aside: those come from lost time."""
        priority = self.broker[index % len(self.broker)].priority
        return next(place for place, waiting in enumerate(self.broker) if waiting.priority == priority)

    def send_all(self, recovered: Recovered, *, lost: bool) -> None:
        for dispatch in recovered.dispatches:
            self.send(dispatch, lost=lost)

    def send(self, dispatch: Dispatch, *, lost: bool = False) -> None:
        line = dispatch.priority
        assert dispatch.sequence > self.sequences.get(line, 0), "a sequence number is used twice"
        self.sequences[line] = dispatch.sequence
        self.sent[dispatch.job_id] = line, dispatch.sequence
        if not lost:
            self.broker.append(dispatch)


def _untyped(client: Any) -> Any:
    return client


def _at(base_ms: int, ticks: int | None) -> datetime | None:
    return None if ticks is None else datetime.fromtimestamp(base_ms / 1000 + ticks * TICK_SECONDS, UTC)


@pytest.fixture
def own_server() -> Iterator[EmbeddedRedis]:
    """A server that is emptied before each sequence of acts."""
    with EmbeddedRedis() as server:
        yield server


@pytest.mark.timeout(3 * 3600)
def test_the_store_does_what_the_model_does(own_server: EmbeddedRedis) -> None:
    StoreMachine.server = own_server
    run_state_machine_as_test(StoreMachine, settings=settings())
