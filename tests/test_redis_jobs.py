"""The record of jobs in Redis: one section an act, then what holds for all of them.

Longer than other test files, since the acts share their stagings: lost replies, a stopped server, a full one.
"""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psutil
import pytest
from harness import all_jobs, wait_until
from redis.exceptions import ConnectionError as RedisConnectionError

from cl_ml_tools.common.job_control import Submission
from cl_ml_tools.common.job_leases import (
    Claim,
    Dispatch,
    Finished,
    JobLeases,
    Outcome,
    Owner,
    Refusal,
    RequeueCause,
    Requeued,
    RequeueState,
    RunState,
)
from cl_ml_tools.common.schemas import Job, JobRecord, JobStatus
from cl_ml_tools.errors import (
    DuplicateJobError,
    InvalidJobError,
    InvalidJobIdError,
    StoreMismatchError,
    StoreUnavailableError,
    SubmissionTooLateError,
)
from cl_ml_tools.stores._keys import KEYS
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore

HERE = Owner("here", 7)
THERE = Owner("there", 7)
DONE = Outcome(JobStatus.COMPLETED, task_output={"width": 3})
FAILED = Outcome(JobStatus.ERROR, error_message="no such colour")
CANCELLED = Outcome(JobStatus.CANCELLED, error_message="cancelled while it ran")


def raw(store: RedisJobStore) -> Any:
    """The store's client, without redis-py's types, which say bytes where we have text."""
    return store.client


def job(job_id: str = "a", *, task_type: str = "probe", **params: Any) -> Job:
    return Job(job_id=job_id, task_type=task_type, params=params)


def add(store: RedisJobStore, added: Job | None = None, **options: Any) -> Dispatch:
    return store.add(added or job(), **options)


def claim(
    store: RedisJobStore, job_id: str = "a", *, token: str = "t", owner: Owner = HERE, sequence: int = 0
) -> Claim | Refusal:
    return store.claim(job_id, token=token, owner=owner, sequence=sequence, lease_seconds=30)


def start(store: RedisJobStore, job_id: str = "a", *, token: str = "t", owner: Owner = HERE) -> JobRecord:
    """Claim a job that can be claimed."""
    answer = claim(store, job_id, token=token, owner=owner)
    assert isinstance(answer, Claim)
    assert isinstance(answer.job, JobRecord)
    return answer.job


def crash(store: RedisJobStore, job_id: str = "a", owner: Owner = HERE) -> Requeued:
    return store.requeue(job_id, owner=owner, cause=RequeueCause.CRASHED, detail="signal 9")


def record(store: RedisJobStore, job_id: str = "a") -> JobRecord:
    found = store.get(job_id)
    assert isinstance(found, JobRecord)
    return found


def events(store: RedisJobStore, job_id: str = "a") -> list[tuple[str, int]]:
    """The job's events so far: status and progress, ``deleted`` for the status of a deletion."""
    return [
        ("deleted" if "d" in fields else fields["s"], int(fields["p"]))
        for _, fields in raw(store).xrange(store.keys("events"))
        if fields["j"] == job_id
    ]


def lease_end(store: RedisJobStore, job_id: str = "a") -> float | None:
    end: float | None = raw(store).zscore(store.keys("leases"), job_id)
    return end


def move_clock(store: RedisJobStore, milliseconds: int) -> None:
    raw(store).hincrby(store.keys("meta"), "time_offset_ms", milliseconds)


def is_script(command: tuple[Any, ...]) -> bool:
    return command[0] in ("EVAL", "EVALSHA")


class Wire:
    """Stands between a store and its server."""

    def __init__(self, store: RedisJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._really = raw(store).execute_command
        self.lose_replies = 0
        self.before_script: Callable[[], object] = lambda: None
        monkeypatch.setattr(store.client, "execute_command", self._execute)

    def _execute(self, *command: Any, **options: Any) -> Any:
        if not is_script(command):
            return self._really(*command, **options)
        self.before_script()
        answer = self._really(*command, **options)
        if self.lose_replies:
            self.lose_replies -= 1
            raise RedisConnectionError("the reply is lost")
        return answer


@pytest.fixture
def wire(store: RedisJobStore, monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(store, monkeypatch)


@pytest.fixture
def own_server() -> Iterator[EmbeddedRedis]:
    """A server that the test may stop, fill or kill."""
    with EmbeddedRedis() as server:
        pid = server.pid
        yield server
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)


# add


def test_an_added_job_is_queued_with_all_that_was_said_of_it(store: RedisJobStore) -> None:
    dispatch = add(store, job(input_paths=["/in/cat.png"], width=3), created_by="ann", priority=7)
    assert dispatch == Dispatch("a", "probe", 7, 1, 0, ("cat.png",))
    added = record(store)
    assert (added.status, added.progress, added.attempt) == ("queued", 0, 0)
    assert (added.params, added.created_by, added.priority) == (
        {"input_paths": ["/in/cat.png"], "width": 3},
        "ann",
        7,
    )
    assert abs(added.created_at - time.time() * 1000) < 60_000
    assert (added.started_at, added.finished_at, added.history) == (None, None, [])


def test_a_job_that_says_no_priority_has_five_and_belongs_to_nobody(store: RedisJobStore) -> None:
    assert add(store).priority == 5
    assert (record(store).priority, record(store).created_by) == (5, None)


def test_sequence_numbers_count_within_a_task_type_and_priority(store: RedisJobStore) -> None:
    added = [
        add(store, job("a")),
        add(store, job("b")),
        add(store, job("c"), priority=9),
        add(store, job("d", task_type="other")),
        add(store, job("e")),
    ]
    assert [dispatch.sequence for dispatch in added] == [1, 2, 1, 1, 3]


def test_an_add_whose_reply_is_lost_is_repeated_and_adds_one_job(store: RedisJobStore, wire: Wire) -> None:
    wire.lose_replies = 1
    assert add(store).sequence == 1
    assert events(store) == [("queued", 0)]


def test_an_add_whose_replies_are_all_lost_says_unavailable_and_the_job_may_be_there(
    store: RedisJobStore, wire: Wire
) -> None:
    wire.lose_replies = 2
    with pytest.raises(StoreUnavailableError):
        add(store)
    assert record(store).status == "queued"


def test_an_id_that_is_taken_is_refused(store: RedisJobStore) -> None:
    add(store, job(width=1))
    with pytest.raises(DuplicateJobError, match="'a'"):
        add(store, job(width=2))
    assert record(store).params == {"width": 1}
    assert events(store) == [("queued", 0)]


@pytest.mark.parametrize("job_id", ["", "../b", "a/b", "a b", "a:b", "ä", "a\n", "x" * 129])
def test_an_id_that_is_not_plain_is_refused(store: RedisJobStore, job_id: str) -> None:
    with pytest.raises(InvalidJobIdError):
        add(store, job(job_id))


@pytest.mark.parametrize("priority", [-1, 11])
def test_a_priority_beyond_0_to_10_is_refused(store: RedisJobStore, priority: int) -> None:
    with pytest.raises(InvalidJobError, match="priority"):
        add(store, job(), priority=priority)


@pytest.mark.parametrize("priority", [5.5, "5"])
def test_a_priority_that_is_no_whole_number_is_refused(store: RedisJobStore, priority: Any) -> None:
    with pytest.raises(InvalidJobError, match="priority"):
        add(store, job(), priority=priority)
    assert all_jobs(store) == []


@pytest.mark.parametrize("status", [status for status in JobStatus if status is not JobStatus.QUEUED])
def test_only_a_queued_job_can_be_added(store: RedisJobStore, status: JobStatus) -> None:
    with pytest.raises(InvalidJobError, match="status"):
        add(store, Job(job_id="a", task_type="probe", params={}, status=status))


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes", object()])
def test_params_that_json_cannot_hold_are_refused(store: RedisJobStore, value: Any) -> None:
    with pytest.raises(InvalidJobError, match="params"):
        add(store, job(value=value))
    assert all_jobs(store) == []


def test_any_text_survives_the_record(store: RedisJobStore) -> None:
    text = "schön 🐈 \x00 \n \udcff \"'\\"
    add(store, job(text=text))
    start(store)
    store.finish("a", token="t", outcome=Outcome(JobStatus.COMPLETED, task_output={"text": text}))
    assert record(store).params["text"] == text
    assert record(store).task_output == {"text": text}


def test_an_add_that_a_stopped_server_executes_later_is_refused(own_server: EmbeddedRedis) -> None:
    with (
        RedisJobStore(own_server.redis_url, timeout_seconds=0.2) as hurried,
        RedisJobStore(own_server.redis_url) as patient,
    ):
        add(hurried, job("before"))
        executed = script_calls(patient)
        os.kill(own_server.pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            add(hurried, job("late"))
        # The deadline is two times the timeout after the beginning.
        wait_until(lambda: time.monotonic() > begin + 0.45)
        os.kill(own_server.pid, signal.SIGCONT)
        wait_until(
            lambda: script_calls(patient) > executed, why="the server executes the command that it had"
        )
        assert patient.get("late") is None
        assert events(patient, "late") == []
        assert add(patient, job("late")).sequence == 2, "its id is free, and no number was used up"


def script_calls(store: RedisJobStore) -> int:
    statistics = raw(store).info("commandstats")
    return sum(int(statistics.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


def test_an_add_that_always_arrives_too_late_stores_nothing(store: RedisJobStore, wire: Wire) -> None:
    add(store, job("first"))
    wire.before_script = lambda: move_clock(store, 60_000)
    with pytest.raises(SubmissionTooLateError):
        add(store, job("late"))
    assert store.get("late") is None


def test_a_clock_of_the_server_that_has_jumped_costs_one_repeat(store: RedisJobStore) -> None:
    add(store, job("first"))
    move_clock(store, 3_600_000)
    add(store, job("second"))
    move_clock(store, -7_200_000)
    add(store, job("third"))
    assert record(store, "third").status == "queued"


# claim


def test_a_claim_starts_the_job_under_a_lease(store: RedisJobStore) -> None:
    add(store, job(width=3))
    begun = start(store)
    assert (begun.status, begun.attempt, begun.progress, begun.params) == ("processing", 1, 0, {"width": 3})
    assert begun.started_at is not None
    assert begun == record(store)
    assert lease_end(store) == begun.started_at + 30_000
    assert events(store) == [("queued", 0), ("processing", 0)]


def test_a_claim_whose_reply_is_lost_is_repeated_and_starts_one_attempt(
    store: RedisJobStore, wire: Wire
) -> None:
    add(store)
    wire.lose_replies = 1
    assert start(store).attempt == 1
    assert start(store).attempt == 1, "its token gets the same claim again"
    assert events(store) == [("queued", 0), ("processing", 0)]


def test_a_job_that_is_running_is_held(store: RedisJobStore) -> None:
    add(store)
    start(store)
    assert claim(store, token="other", owner=THERE) is Refusal.HELD
    assert claim(store, token="other", owner=HERE) is Refusal.HELD
    assert store.report("a", token="t", progress=1) is RunState.CURRENT


@pytest.mark.parametrize(
    ("outcome", "refusal"),
    [(DONE, Refusal.DONE), (FAILED, Refusal.DONE), (CANCELLED, Refusal.CANCELLED)],
    ids=["completed", "error", "cancelled"],
)
def test_a_job_at_its_end_is_not_claimed(store: RedisJobStore, outcome: Outcome, refusal: Refusal) -> None:
    add(store)
    start(store)
    store.finish("a", token="t", outcome=outcome)
    assert claim(store, token="other") is refusal
    assert claim(store, token="t") is refusal, "not under the token that finished it either"


def test_a_job_that_is_not_there_is_unknown(store: RedisJobStore) -> None:
    assert claim(store) is Refusal.UNKNOWN
    add(store)
    start(store)
    store.delete("a")
    assert claim(store, token="other") is Refusal.UNKNOWN, "deleted, though it still runs"


def test_a_job_whose_next_try_is_not_due_is_early(store: RedisJobStore) -> None:
    add(store)
    start(store)
    store.requeue("a", owner=HERE, cause=RequeueCause.FAILED, detail="", max_retries=1, delay_seconds=10)
    assert claim(store, token="second") is Refusal.EARLY
    move_clock(store, 11_000)
    assert start(store, token="second").attempt == 2


def test_a_claim_of_a_job_that_has_crashed_too_often_ends_it(store: RedisJobStore) -> None:
    add(store)
    raw(store).hset(store.keys("job", "a"), "crashes", 3)
    assert claim(store) is Refusal.GIVEN_UP
    ended = record(store)
    assert (ended.status, ended.attempt) == ("error", 0)
    assert "died 3 times" in (ended.error_message or "")


def test_two_claimants_at_once_and_one_wins(redis_server: EmbeddedRedis, store: RedisJobStore) -> None:
    with RedisJobStore(redis_server.redis_url) as second:
        claimants = [(store, "t1"), (store, "t2"), (second, "t3"), (second, "t4")]
        for number in range(10):
            add(store, job(f"job{number}"))
            answers = race([partial(claim, s, f"job{number}", token=token) for s, token in claimants])
            assert sorted(type(answer).__name__ for answer in answers) == ["Claim"] + ["Refusal"] * 3
            assert record(store, f"job{number}").attempt == 1


def race(acts: list[Callable[[], Any]]) -> list[Any]:
    """What the acts return, done in threads that begin together."""
    gate = threading.Barrier(len(acts))
    answers: list[Any] = [None] * len(acts)

    def do(number: int) -> None:
        gate.wait()
        answers[number] = acts[number]()

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_every_delivery_raises_what_was_seen_of_its_line_refused_or_not(store: RedisJobStore) -> None:
    def seen() -> str | None:
        number: str | None = raw(store).hget(store.keys("seen"), "probe:5")
        return number

    for job_id in "abc":
        add(store, job(job_id))
    claim(store, "b", sequence=2)
    assert seen() == "2"
    claim(store, "a", sequence=1)
    assert seen() == "2", "it never goes back"
    claim(store, "b", sequence=3, token="other")
    assert seen() == "3"


# extend


def test_a_lease_is_extended_by_its_node(store: RedisJobStore) -> None:
    add(store)
    start(store)
    first = lease_end(store)
    move_clock(store, 20_000)
    assert store.extend("here", [("a", None)], lease_seconds=30) == [RunState.CURRENT]
    assert (lease_end(store) or 0) >= (first or 0) + 20_000


def test_a_lease_is_extended_by_its_token_on_its_node_only(store: RedisJobStore) -> None:
    add(store)
    start(store)
    store.extend("there", [], lease_seconds=30)  # leases are looked after: no grace is due below
    first = lease_end(store)
    move_clock(store, 10_000)
    assert store.extend("there", [("a", None)], lease_seconds=30) == [RunState.LOST]
    assert store.extend("there", [("a", "t")], lease_seconds=30) == [RunState.LOST]
    assert store.extend("here", [("a", "other")], lease_seconds=30) == [RunState.LOST]
    assert lease_end(store) == first
    assert store.extend("here", [("a", "t")], lease_seconds=30) == [RunState.CURRENT]
    assert (lease_end(store) or 0) >= (first or 0) + 10_000


def test_a_lease_that_has_ended_is_taken_up_again(store: RedisJobStore) -> None:
    add(store)
    start(store)
    move_clock(store, 3_600_000)
    assert store.extend("here", [("a", "t")], lease_seconds=30) == [RunState.CURRENT]
    assert lease_end(store) == pytest.approx((record(store).started_at or 0) + 3_630_000, abs=60_000)


def test_extend_answers_each_run_in_order(store: RedisJobStore) -> None:
    for job_id in ("running", "waiting", "stopping", "done", "lost"):
        add(store, job(job_id))
    for job_id in ("running", "stopping", "done"):
        start(store, job_id)
    start(store, "lost", owner=THERE)
    store.delete("stopping")
    store.finish("done", token="t", outcome=DONE)
    ids = ["lost", "done", "absent", "stopping", "waiting", "running"]
    assert store.extend("here", [(job_id, None) for job_id in ids], lease_seconds=30) == [
        RunState.LOST,
        RunState.IDLE,
        RunState.IDLE,
        RunState.STOPPING,
        RunState.IDLE,
        RunState.CURRENT,
    ]
    assert store.extend("here", [], lease_seconds=30) == []


def test_a_run_whose_job_was_queued_again_is_lost(store: RedisJobStore) -> None:
    add(store)
    start(store)
    crash(store)
    assert store.extend("here", [("a", "t")], lease_seconds=30) == [RunState.LOST]
    start(store, token="second")
    assert store.extend("here", [("a", "t"), ("a", "second")], lease_seconds=30) == [
        RunState.LOST,
        RunState.CURRENT,
    ]


# report


def test_progress_never_goes_back_and_is_at_most_99(store: RedisJobStore) -> None:
    add(store)
    start(store)
    for progress in (10, 5, 250, -3, 100, 99):
        assert store.report("a", token="t", progress=progress) is RunState.CURRENT
    assert record(store).progress == 99
    assert events(store)[2:] == [("processing", 10), ("processing", 99)]


def test_progress_begins_anew_with_each_attempt(store: RedisJobStore) -> None:
    add(store)
    start(store)
    store.report("a", token="t", progress=80)
    crash(store)
    assert record(store).progress == 0
    start(store, token="second")
    store.report("a", token="second", progress=10)
    assert record(store).progress == 10
    assert [progress for _, progress in events(store)] == [0, 0, 80, 0, 0, 10]


def test_a_lost_token_cannot_report(store: RedisJobStore) -> None:
    assert store.report("a", token="t", progress=1) is RunState.LOST
    add(store)
    assert store.report("a", token="t", progress=1) is RunState.LOST
    start(store)
    assert store.report("a", token="other", progress=1) is RunState.LOST
    assert record(store).progress == 0


def test_a_report_tells_a_run_that_it_has_to_stop(store: RedisJobStore) -> None:
    add(store)
    start(store)
    store.delete("a")
    assert store.report("a", token="t", progress=50) is RunState.STOPPING
    assert events(store)[-1] == ("deleted", 0), "a deleted job tells nothing more"


# finish


@pytest.mark.parametrize("outcome", [DONE, FAILED, CANCELLED], ids=["completed", "error", "cancelled"])
def test_an_outcome_is_stored_once_and_ends_the_lease(store: RedisJobStore, outcome: Outcome) -> None:
    add(store)
    start(store)
    store.report("a", token="t", progress=40)
    assert store.finish("a", token="t", outcome=outcome) is Finished.STORED
    ended = record(store)
    assert (ended.status, ended.task_output, ended.error_message) == (
        outcome.status,
        outcome.task_output,
        outcome.error_message,
    )
    assert ended.progress == (100 if outcome is DONE else 40)
    assert ended.finished_at is not None
    assert lease_end(store) is None
    assert store.extend("here", [("a", "t")], lease_seconds=30) == [RunState.IDLE]


def test_a_finish_whose_reply_is_lost_is_repeated_and_stores_once(store: RedisJobStore, wire: Wire) -> None:
    add(store)
    start(store)
    wire.lose_replies = 1
    assert store.finish("a", token="t", outcome=DONE) is Finished.STORED
    assert store.finish("a", token="t", outcome=FAILED) is Finished.STORED, "what was stored first"
    assert record(store).status == "completed"
    assert [status for status, _ in events(store)] == ["queued", "processing", "completed"]


def test_a_lost_lease_cannot_finish_the_job(store: RedisJobStore) -> None:
    add(store)
    start(store)
    crash(store)
    assert store.finish("a", token="t", outcome=DONE) is Finished.LOST
    start(store, token="second")
    assert store.finish("a", token="t", outcome=DONE) is Finished.LOST
    assert (record(store).status, record(store).task_output) == ("processing", None)


def test_a_run_whose_job_was_ended_by_others_is_lost(store: RedisJobStore) -> None:
    add(store)
    for attempt in range(3):
        start(store, token=f"t{attempt}")
        crash(store)
    assert record(store).status == "error"
    assert store.extend("here", [("a", "t2")], lease_seconds=30) == [RunState.LOST]
    assert store.finish("a", token="t2", outcome=DONE) is Finished.LOST, "its outcome is not the job's"
    assert record(store).status == "error"


def test_a_job_that_was_deleted_while_it_ran_is_gone_when_its_run_has_finished(
    store: RedisJobStore, wire: Wire
) -> None:
    add(store)
    start(store)
    store.delete("a")
    wire.lose_replies = 1
    assert store.finish("a", token="t", outcome=DONE) is Finished.DELETED
    assert raw(store).exists(store.keys("job", "a")) == 0
    assert [status for status, _ in events(store)] == ["queued", "processing", "deleted"]
    add(store)
    assert store.finish("a", token="t", outcome=DONE) is Finished.LOST, "a new job of the same id"


def test_a_finish_that_arrives_before_a_cancel_is_heard_wins(store: RedisJobStore) -> None:
    add(store)
    start(store)
    raw(store).hset(store.keys("job", "a"), "cancel_requested", "1")
    assert record(store).cancel_requested
    assert store.finish("a", token="t", outcome=DONE) is Finished.STORED
    assert (record(store).status, record(store).cancel_requested) == ("completed", False)


def test_an_outcome_that_cannot_be_one_is_refused(store: RedisJobStore) -> None:
    add(store)
    start(store)
    with pytest.raises(InvalidJobError, match="queued"):
        store.finish("a", token="t", outcome=Outcome(JobStatus.QUEUED))
    with pytest.raises(InvalidJobError, match="task_output"):
        store.finish("a", token="t", outcome=Outcome(JobStatus.COMPLETED, task_output={"x": float("inf")}))
    assert record(store).status == "processing"


# requeue


def test_a_crash_is_counted_and_the_job_is_queued_behind_the_others(store: RedisJobStore) -> None:
    add(store, job("a", input_paths=["/in/cat.png"]), priority=7)
    add(store, job("b"), priority=7)
    start(store)
    assert crash(store) == Requeued(RequeueState.QUEUED, Dispatch("a", "probe", 7, 3, 0, ("cat.png",)))
    again = record(store)
    assert (again.status, again.crashes, again.attempt, again.leases_lost) == ("queued", 1, 1, 0)
    (end,) = again.history
    assert (end.attempt, end.node, end.cause, end.detail) == (1, "here", "crashed", "signal 9")
    assert abs(end.at - (again.started_at or 0)) < 60_000
    assert lease_end(store) is None


def test_a_job_that_crashes_three_times_ends_in_error_with_its_history(store: RedisJobStore) -> None:
    add(store)
    for attempt in (1, 2, 3):
        assert start(store, token=f"t{attempt}").attempt == attempt
        assert crash(store).state is (RequeueState.ENDED if attempt == 3 else RequeueState.QUEUED)
    ended = record(store)
    assert (ended.status, ended.crashes) == ("error", 3)
    assert "died 3 times" in (ended.error_message or "")
    assert "signal 9" in (ended.error_message or "")
    assert [(end.attempt, end.cause) for end in ended.history] == [(n, "crashed") for n in (1, 2, 3)]


def test_the_limit_of_crashes_can_be_set(redis_server: EmbeddedRedis, store: RedisJobStore) -> None:
    with RedisJobStore(redis_server.redis_url, max_crashes=1) as strict:
        add(strict)
        start(strict)
        assert crash(strict) == Requeued(RequeueState.ENDED, None)
        assert record(strict).status == "error"


def test_a_release_counts_nothing(store: RedisJobStore) -> None:
    add(store)
    for attempt in range(1, 6):
        assert start(store, token=f"t{attempt}").attempt == attempt
        answer = store.requeue("a", owner=HERE, cause=RequeueCause.RELEASED, detail="shutdown")
        assert answer.state is RequeueState.QUEUED
    assert (record(store).status, record(store).crashes, record(store).leases_lost) == ("queued", 0, 0)


def test_only_the_owner_that_runs_a_job_can_requeue_it(store: RedisJobStore) -> None:
    assert crash(store) == Requeued(RequeueState.LOST, None)
    add(store)
    assert crash(store) == Requeued(RequeueState.LOST, None)
    start(store)
    assert crash(store, owner=THERE).state is RequeueState.LOST
    assert crash(store, owner=Owner("here", 8)).state is RequeueState.LOST
    assert (record(store).status, record(store).crashes) == ("processing", 0)
    assert crash(store).state is RequeueState.QUEUED
    assert crash(store).state is RequeueState.LOST, "nobody runs it any more"
    assert record(store).crashes == 1


def test_a_requeue_whose_reply_is_lost_is_repeated_and_counts_once(store: RedisJobStore, wire: Wire) -> None:
    add(store)
    start(store)
    wire.lose_replies = 1
    assert crash(store) == Requeued(RequeueState.QUEUED, Dispatch("a", "probe", 5, 2, 0, ()))
    assert record(store).crashes == 1
    assert [status for status, _ in events(store)] == ["queued", "processing", "queued"]


def test_a_crash_of_a_deleted_job_removes_it(store: RedisJobStore) -> None:
    add(store)
    start(store)
    store.delete("a")
    assert crash(store).state is RequeueState.DELETED
    assert raw(store).exists(store.keys("job", "a")) == 0
    assert events(store)[-1] == ("deleted", 0)


def test_a_crash_of_a_job_that_had_to_stop_ends_it_as_cancelled(store: RedisJobStore) -> None:
    add(store)
    start(store)
    raw(store).hset(store.keys("job", "a"), "cancel_requested", "1")
    assert crash(store).state is RequeueState.CANCELLED
    cancelled = record(store)
    assert (cancelled.status, cancelled.crashes, cancelled.history) == ("cancelled", 0, [])


def test_any_detail_of_a_crash_is_kept_on_its_line(store: RedisJobStore) -> None:
    detail = 'two\nlines, "quotes", \\ and schön\x00'
    add(store)
    for token in ("t1", "t2"):
        start(store, token=token)
        store.requeue("a", owner=HERE, cause=RequeueCause.CRASHED, detail=detail)
    assert [end.detail for end in record(store).history] == [detail, detail]


# update, cancel, delete


@pytest.mark.parametrize("outcome", [DONE, FAILED], ids=["completed", "error"])
def test_a_cancel_comes_too_late_for_a_job_at_its_end(store: RedisJobStore, outcome: Outcome) -> None:
    add(store)
    start(store)
    store.finish("a", token="t", outcome=outcome)
    before, told = record(store), events(store)
    assert [store.cancel("a"), store.cancel("a"), store.cancel("b")] == ["ended", "ended", "unknown"]
    assert (record(store), events(store)) == (before, told)


def test_a_cancel_that_is_repeated_meets_its_own_work(store: RedisJobStore) -> None:
    add(store)
    assert [store.cancel("a"), store.cancel("a")] == ["cancelled", "cancelled"]
    assert record(store).status == "cancelled"


def test_a_queued_job_can_be_changed_by_others(store: RedisJobStore) -> None:
    add(store)
    assert store.update("a", progress=30, task_output={"x": 1}, error_message="waits")
    changed = record(store)
    assert (changed.status, changed.progress, changed.task_output, changed.error_message) == (
        "queued",
        30,
        {"x": 1},
        "waits",
    )
    assert events(store)[-1] == ("queued", 30)


def test_a_queued_job_can_be_ended_by_others(store: RedisJobStore) -> None:
    add(store)
    assert store.update("a", status=JobStatus.CANCELLED, error_message="not needed")
    ended = record(store)
    assert (ended.status, ended.error_message, ended.attempt) == ("cancelled", "not needed", 0)
    assert ended.finished_at is not None
    assert claim(store) is Refusal.CANCELLED


def test_an_update_whose_reply_is_lost_still_says_that_it_was_done(store: RedisJobStore, wire: Wire) -> None:
    add(store)
    wire.lose_replies = 1
    assert store.update("a", status=JobStatus.CANCELLED)


def test_a_running_or_deleted_or_absent_job_is_not_changed_by_others(store: RedisJobStore) -> None:
    assert not store.update("a", progress=1)
    add(store)
    start(store)
    assert not store.update("a", status=JobStatus.ERROR)
    store.delete("a")
    assert not store.update("a", status=JobStatus.ERROR)


def test_an_update_to_a_status_that_only_a_claim_gives_is_refused(store: RedisJobStore) -> None:
    add(store)
    with pytest.raises(InvalidJobError, match="processing"):
        store.update("a", status=JobStatus.PROCESSING)


def test_a_queued_job_is_deleted_at_once(store: RedisJobStore) -> None:
    add(store)
    assert store.delete("a")
    assert store.get("a") is None
    assert raw(store).exists(store.keys("job", "a")) == 0
    assert not store.delete("a")
    assert events(store) == [("queued", 0), ("deleted", 0)]


def test_a_delete_whose_reply_is_lost_still_says_that_it_was_done(store: RedisJobStore, wire: Wire) -> None:
    add(store)
    wire.lose_replies = 1
    assert store.delete("a")


def test_a_running_job_is_hidden_at_once_and_told_to_stop(store: RedisJobStore) -> None:
    add(store, job(), created_by="ann")
    start(store)
    assert store.delete("a")
    assert store.get("a") is None
    assert all_jobs(store) == []
    assert not store.delete("a")
    assert store.extend("here", [("a", "t")], lease_seconds=30) == [RunState.STOPPING]
    with pytest.raises(DuplicateJobError):
        add(store)


def test_a_job_at_its_end_is_deleted_at_once(store: RedisJobStore) -> None:
    add(store)
    start(store)
    store.finish("a", token="t", outcome=DONE)
    assert store.delete("a")
    assert store.get("a") is None
    assert events(store)[-1] == ("deleted", 100)


# get, list


def test_an_absent_job_is_none(store: RedisJobStore) -> None:
    assert store.get("a") is None
    assert store.get("") is None


# what holds for all


def test_the_store_keeps_leases(store: RedisJobStore) -> None:
    assert isinstance(store, JobLeases)


ALL_ACTS: dict[str, Callable[[RedisJobStore], object]] = {
    "add": lambda store: add(store, job("new")),
    "claim": lambda store: claim(store, sequence=1),
    "extend": lambda store: store.extend("here", [("a", "t")], lease_seconds=30),
    "report": lambda store: store.report("a", token="t", progress=1),
    "finish": lambda store: store.finish("a", token="t", outcome=DONE),
    "requeue": lambda store: crash(store),
    "update": lambda store: store.update("a", progress=1),
    "delete": lambda store: store.delete("a"),
    "get": lambda store: store.get("a"),
    "bind_broker": lambda store: store.bind_broker("redis:0"),
}


@pytest.mark.parametrize("outcome", [DONE, FAILED, CANCELLED], ids=["completed", "error", "cancelled"])
@pytest.mark.parametrize("act", ["claim", "extend", "report", "finish", "requeue", "update"])
def test_a_terminal_state_is_final(store: RedisJobStore, outcome: Outcome, act: str) -> None:
    add(store)
    start(store)
    store.finish("a", token="t", outcome=outcome)
    before, told = record(store), events(store)
    ALL_ACTS[act](store)
    assert record(store) == before
    assert events(store) == told
    assert lease_end(store) is None


def test_each_change_writes_an_event_that_the_record_names(store: RedisJobStore) -> None:
    def last_event() -> str:
        ((event_id, fields),) = raw(store).xrevrange(store.keys("events"), count=1)
        assert fields["j"] == "a"
        assert fields.get("c") == "ann"
        return str(event_id)

    told = []
    acts: list[Callable[[], object]] = [
        lambda: add(store, job(), created_by="ann"),
        lambda: store.update("a", progress=3),
        lambda: start(store),
        lambda: store.report("a", token="t", progress=50),
        lambda: crash(store),
        lambda: start(store, token="second"),
        lambda: store.finish("a", token="second", outcome=FAILED),
    ]
    for act in acts:
        act()
        told.append(last_event())
        assert record(store).event_id == told[-1]
    assert len(set(told)) == len(acts)
    assert events(store) == [
        ("queued", 0),
        ("queued", 3),
        ("processing", 0),
        ("processing", 50),
        ("queued", 0),
        ("processing", 0),
        ("error", 0),
    ]
    store.delete("a")
    assert last_event() > told[-1]


def test_nothing_but_the_permanent_keys_stays_when_all_jobs_are_deleted(store: RedisJobStore) -> None:
    store.bind_broker("redis:0")
    for number, job_id in enumerate("abcdef"):
        add(store, job(job_id), created_by="ann" if number % 2 else None, priority=number)
    for job_id in "abcd":
        start(store, job_id)
    store.report("a", token="t", progress=9)
    crash(store, "b")
    store.finish("c", token="t", outcome=DONE)
    store.update("e", status=JobStatus.CANCELLED)
    for job_id in "abcdef":
        assert store.delete(job_id)
    store.finish("a", token="t", outcome=CANCELLED)
    crash(store, "d")
    # Their sizes go by the number of lines, not of jobs.
    permanent = {"sequences", "seen", "lines", "watched", "meta", "events"}
    assert set(raw(store).scan_iter()) <= {store.keys(name) for name in permanent}


def test_every_key_is_of_the_type_that_the_table_of_keys_tells(store: RedisJobStore) -> None:
    add(store, job("a"), created_by="ann")
    add(store, job("b"))
    add(store, job("e"), expires=datetime.now(UTC) + timedelta(hours=1))
    store.identity()
    add(store, job("c"), not_before=datetime.now(UTC) + timedelta(hours=1))
    add(store, job("d"), submission=Submission("key", "f" * 64), created_by="ann")
    store.claim("a", token="t", owner=HERE, sequence=1, lease_seconds=30)
    start(store, "b")
    store.finish("b", token="t", outcome=DONE)
    store.scripts.run("announce", "here", 30_000, "probe")
    store.scripts.run("recover_messages", 1000, 1000, 10)
    store.claim_turn("sweep", 60)
    client = raw(store)
    seen = set()
    for name in client.scan_iter():
        tail = name.removeprefix(store.keys.root)
        (key,) = [key for key in KEYS if (tail.startswith(key.suffix) if key.takes else tail == key.suffix)]
        assert re.match(rf"{client.type(name)}\b", key.redis_type), name
        seen.add(key.function)
    assert seen == {key.function for key in KEYS}


def test_every_key_is_under_the_prefix_and_in_one_slot(redis_server: EmbeddedRedis) -> None:
    with RedisJobStore(redis_server.redis_url, prefix="team.one") as store:
        raw(store).flushall()
        add(store, job(), created_by="ann")
        start(store)
        assert all(key.startswith("{team.one}:") for key in raw(store).scan_iter())


def test_two_prefixes_do_not_see_each_other(redis_server: EmbeddedRedis, store: RedisJobStore) -> None:
    with RedisJobStore(redis_server.redis_url, prefix="other") as other:
        add(store)
        assert other.get("a") is None
        assert all_jobs(other) == []


def test_a_prefix_belongs_to_the_broker_that_was_first(store: RedisJobStore) -> None:
    store.bind_broker("redis:0")
    store.bind_broker("redis:0")
    with pytest.raises(StoreMismatchError, match="CL_ML_TOOLS_KEY_PREFIX") as caught:
        store.bind_broker("amqp:jobs")
    assert "'redis:0'" in str(caught.value)
    assert "'amqp:jobs'" in str(caught.value)


@pytest.mark.parametrize("act", ALL_ACTS)
def test_no_act_waits_for_a_stopped_server_beyond_its_bound(own_server: EmbeddedRedis, act: str) -> None:
    with RedisJobStore(own_server.redis_url, timeout_seconds=0.1) as store:
        add(store)
        os.kill(own_server.pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            ALL_ACTS[act](store)
        assert time.monotonic() - begin < 2 * 0.1 + 1.0


def test_callers_after_one_that_waited_in_vain_are_refused_at_once_until_the_server_answers(
    own_server: EmbeddedRedis,
) -> None:
    with RedisJobStore(own_server.redis_url, timeout_seconds=0.5) as store:
        add(store)
        os.kill(own_server.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailableError):
            store.get("a")
        begin = time.monotonic()
        for _ in range(50):
            with pytest.raises(StoreUnavailableError):
                store.get("a")
        # All together shorter than one wait.
        assert time.monotonic() - begin < 0.5
        os.kill(own_server.pid, signal.SIGCONT)
        wait_until(lambda: answers(store), seconds=5, why="the store is asked again")
        assert [answers(store) for _ in range(10)] == [True] * 10


def answers(store: RedisJobStore) -> bool:
    try:
        return store.get("a") is not None
    except StoreUnavailableError:
        return False


def test_a_server_that_is_gone_is_told_as_unavailable(own_server: EmbeddedRedis) -> None:
    with RedisJobStore(own_server.redis_url) as store:
        add(store)
        own_server.stop()
        for act in ALL_ACTS.values():
            with pytest.raises(StoreUnavailableError):
                act(store)


@pytest.mark.parametrize("act", ["add", "claim", "update"])
def test_a_server_without_memory_is_told_as_unavailable_and_nothing_changes(
    own_server: EmbeddedRedis, act: str
) -> None:
    with RedisJobStore(own_server.redis_url) as store:
        add(store)
        before = record(store)
        raw(store).config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailableError):
            ALL_ACTS[act](store)
        assert record(store) == before
        assert store.get("new") is None


def test_a_full_server_lets_jobs_end_and_go(own_server: EmbeddedRedis) -> None:
    with RedisJobStore(own_server.redis_url) as store:
        add(store, job("a"))
        add(store, job("b"))
        start(store)
        raw(store).config_set("maxmemory", "1")
        assert store.finish("a", token="t", outcome=DONE) is Finished.STORED
        assert store.delete("a")
        assert store.delete("b")
        assert all_jobs(store) == []


def test_a_server_that_may_not_write_is_told_as_unavailable(own_server: EmbeddedRedis) -> None:
    with RedisJobStore(own_server.redis_url) as store:
        raw(store).config_set("min-replicas-to-write", 1)
        with pytest.raises(StoreUnavailableError):
            add(store)


def test_a_server_that_has_forgotten_the_scripts_is_told_them_again(store: RedisJobStore) -> None:
    add(store, job("a"))
    raw(store).script_flush()
    assert add(store, job("b")).sequence == 2


def test_a_forked_child_uses_connections_of_its_own(store: RedisJobStore) -> None:
    add(store)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens in the child, the test's process it must not become.
        try:
            started = claim(store, token="child", owner=Owner("here", os.getpid()))
            os.write(writer, json.dumps([isinstance(started, Claim), add(store, job("b")).sequence]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    # Both use their connection at the same time.
    for _ in range(200):
        assert store.get("a") is not None
    os.waitpid(child, 0)
    assert json.loads(os.read(reader, 100)) == [True, 2]
    os.close(reader)
    assert store.report("a", token="child", progress=5) is RunState.CURRENT
