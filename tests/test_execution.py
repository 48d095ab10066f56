"""One run of a job: what its plugin may do, and what becomes of it."""

import asyncio
import io
import logging
import logging.config
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from harness import wait_until
from pydantic import BaseModel, ConfigDict, Field

from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.job_leases import (
    Claim,
    Finished,
    Outcome,
    Owner,
    RequeueCause,
    RequeueState,
    RunState,
)
from cl_ml_tools.common.schemas import BaseJobParams, Job, JobRecord, JobStatus
from cl_ml_tools.errors import BadInputError, InvalidJobError, JobStopped, StoreUnavailableError
from cl_ml_tools.execution import (
    Execution,
    LeasedRun,
    RetryLater,
    TimeLimits,
    event_loop,
    finish,
    finishing,
    lease_clock,
    retry_later,
    run_on_thread_loop,
)
from cl_ml_tools.execution.surroundings import kept_surroundings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore

HERE = Owner("here", 7)
THERE = Owner("there", 8)
OK = {"status": "ok", "task_output": {}}
DONE_BY_OTHERS = Outcome(JobStatus.COMPLETED, task_output={"by": "the winner"})


class Params(BaseJobParams):
    width: int = 1


class Call:
    """What a plugin's `execute` is given."""

    def __init__(self, job: Job, params: Params, report: ProgressCallback | None) -> None:
        assert report is not None
        self.job = job
        self.params = params
        self.report = report


class Plugin(ComputeModule[Params]):
    """Does what a test says."""

    def __init__(self, act: Callable[[Call], Any]) -> None:
        self._act = act

    @property
    def task_type(self) -> str:
        return "probe"

    def get_schema(self) -> type[Params]:
        return Params

    async def execute(
        self, job: Job, params: Params, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        returned: Any = self._act(Call(job, params, progress_callback))
        answer: dict[str, Any] = (await returned) if asyncio.iscoroutine(returned) else returned
        return answer


class Stage:
    """Runs the job ``a`` of a store.

    Attributes:
        ended: what its last run returned.
        finished: what became of that outcome.
    """

    def __init__(self, store: RedisJobStore) -> None:
        self.store = store
        self.lease_seconds = 30.0
        self.limits = TimeLimits(None, 3600.0)
        self.time_limit: float | None = None
        self.is_process_ending: Callable[[BaseException], bool] = lambda error: isinstance(
            error, KeyboardInterrupt
        )
        self.ended: Outcome | RetryLater | None = None
        self.finished: Finished | None = None

    def claim(self, token: str = "t", owner: Owner = HERE) -> Claim:
        claim = self.store.claim("a", token=token, owner=owner, sequence=0, lease_seconds=30)
        assert isinstance(claim, Claim)
        return claim

    def run(self, act: Callable[[Call], Any] | ComputeModule[Any], **params: Any) -> JobRecord | None:
        """Add the job if need be, claim it, run it and store its outcome; returns its record."""
        if self.store.get("a") is None:
            self.store.add(Job(job_id="a", task_type="probe", params=params))
        module = act if isinstance(act, ComputeModule) else Plugin(act)
        claim = self.claim()
        monitored = LeasedRun(
            self.store,
            job_id="a",
            token="t",
            owner=HERE,
            claimed_at=lease_clock(),
            lease_seconds=self.lease_seconds,
            progress_interval_seconds=0.01,
            time_limit=self.time_limit,
        )
        with Execution(
            module, claim, monitored, limits=self.limits, is_process_ending=self.is_process_ending
        ) as execution:
            self.ended = run_on_thread_loop(execution.run())
            if isinstance(self.ended, Outcome):
                self.finished = finish(claim, self.ended, self.store, monitored)
        record = self.store.get("a")
        assert record is None or isinstance(record, JobRecord)
        return record

    def error_of(self, act: Callable[[Call], Any] | ComputeModule[Any], **params: Any) -> str:
        """The message of a run that ends in error."""
        record = self.run(act, **params)
        assert record is not None
        assert record.status == "error"
        assert record.error_message is not None
        return record.error_message

    def let_another_win(self) -> None:
        """Take the job away from its run, as recovery does, and finish it elsewhere."""
        answer = self.store.requeue("a", owner=HERE, cause=RequeueCause.CRASHED, detail="")
        assert answer.state is RequeueState.QUEUED
        self.claim("winner", THERE)
        assert self.store.finish("a", token="winner", outcome=DONE_BY_OTHERS) is Finished.STORED


@pytest.fixture
def stage(store: RedisJobStore) -> Stage:
    return Stage(store)


@pytest.fixture
def own_server() -> Iterator[EmbeddedRedis]:
    """A server that the test may stop."""
    with EmbeddedRedis() as server:
        yield server
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a job wants its one output."""
    return tmp_path / "out" / "a.txt"


def files_below(folder: Path) -> dict[str, str]:
    """All that is there: files with their content, and empty directories."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else "directory"
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


class Gate(logging.Handler):
    """Does something when a log record says ``words``."""

    def __init__(self, words: str, do: Callable[[], object]) -> None:
        super().__init__()
        self._words = words
        self._do = do

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self._do()


@contextmanager
def when_logged(words: str, do: Callable[[], object]) -> Iterator[None]:
    gate = Gate(words, do)
    logger = logging.getLogger("cl_ml_tools.execution")
    logger.addHandler(gate)
    try:
        yield
    finally:
        logger.removeHandler(gate)


# outcomes


def test_what_a_plugin_returns_is_the_jobs_output(stage: Stage) -> None:
    record = stage.run(lambda call: {"status": "ok", "task_output": {"width": call.params.width}}, width=3)
    assert record is not None
    assert (record.status, record.progress, record.task_output) == ("completed", 100, {"width": 3})
    assert stage.finished is Finished.STORED


def test_a_plugin_may_return_no_output_or_a_model(stage: Stage) -> None:
    record = stage.run(lambda _: {"status": "ok"})
    assert record is not None
    assert record.task_output == {}
    stage.store.delete("a")
    record = stage.run(lambda _: {"status": "ok", "task_output": Params(width=2)})
    assert record is not None
    assert record.task_output == {"input_paths": [], "output_paths": [], "width": 2}


def test_invalid_parameters_are_an_error_that_names_the_field(stage: Stage, target: Path) -> None:
    message = stage.error_of(lambda _: OK, width="wide", output_paths=[str(target)])
    assert message.startswith("invalid parameters: width: ")
    assert "https://" not in message
    assert files_below(target.parent) == {}


def test_a_plugins_own_validation_error_is_not_told_as_one_of_the_parameters(stage: Stage) -> None:
    class Answer(BaseJobParams):
        height: int

    message = stage.error_of(lambda _: Answer.model_validate({"height": "high"}))
    assert message.startswith("ValidationError: ")


def test_an_error_result_is_the_jobs_error(stage: Stage) -> None:
    assert stage.error_of(lambda _: {"status": "error", "error": "no such colour"}) == "no such colour"


def test_an_error_result_without_a_reason_says_so(stage: Stage) -> None:
    assert "no reason" in stage.error_of(lambda _: {"status": "error"})


@pytest.mark.parametrize("key", ["error", "error_message", "message", "detail"])
def test_the_reason_of_an_error_result_may_have_another_name(stage: Stage, key: str) -> None:
    assert stage.error_of(lambda _: {"status": "error", key: "no such colour"}) == "no such colour"


@pytest.mark.parametrize(
    ("returned", "warning"),
    [
        (
            {"status": "ok", "output": {"width": 1}, "tookMs": 3},
            "job a: the plugin returned 'output', 'tookMs', which nobody reads; with status 'ok' it may be task_output",
        ),
        (
            {"status": "error", "reason": "no such colour"},
            "job a: the plugin returned 'reason', which nobody reads; "
            "with status 'error' it may be error or error_message or message or detail",
        ),
    ],
    ids=["ok", "error"],
)
def test_what_nobody_reads_of_a_result_is_told_in_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture, returned: dict[str, Any], warning: str
) -> None:
    stage.run(lambda _: returned)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [warning]


@pytest.mark.parametrize(
    "returned",
    [{"status": "ok", "task_output": {}, "error": None}, {"status": "error", "error": "no", "message": "no"}],
    ids=["ok", "error"],
)
def test_of_a_result_that_loses_nothing_nothing_is_told(
    stage: Stage, caplog: pytest.LogCaptureFixture, returned: dict[str, Any]
) -> None:
    stage.run(lambda _: returned)
    assert "nobody reads" not in caplog.text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no such colour"), "RuntimeError: no such colour"),
        (BadInputError("cat.png is empty"), "BadInputError: cat.png is empty"),
        (SystemExit(3), "SystemExit: 3"),
        (BaseException("very bad"), "BaseException: very bad"),
        (AssertionError(), "AssertionError"),
    ],
    ids=["exception", "bad input", "sys.exit", "base exception", "without a text"],
)
def test_whatever_a_plugin_raises_is_the_jobs_error_and_is_logged_with_its_traceback(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: BaseException, message: str
) -> None:
    def fail(_: Call) -> None:
        raise error

    assert stage.error_of(fail) == message
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert logged.exc_info is not None
    assert logged.exc_info[1] is error


@pytest.mark.parametrize(
    "returned",
    [None, "ok", {}, {"status": "done"}, {"task_output": {}}, {"status": "ok", "task_output": [1]}],
    ids=["nothing", "text", "empty", "unknown status", "no status", "output is a list"],
)
def test_what_is_no_result_is_an_error_that_says_so(stage: Stage, returned: Any) -> None:
    assert stage.error_of(lambda _: returned).startswith("the plugin")


def output_of(stage: Stage, task_output: Any) -> dict[str, Any] | None:
    """What the record holds of a plugin's output."""
    record = stage.run(lambda _: {"status": "ok", "task_output": task_output})
    assert record is not None
    assert record.error_message is None
    return record.task_output


class Tensor:
    """As arrays of numpy and torch are: they give what they hold as Python's own."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def tolist(self) -> Any:
        return self._held


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Face:
    score: Any
    file: Path


class Faces(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    faces: list[Face]
    mean: Tensor
    size: int = Field(alias="Size")


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Tensor(0.5), 0.5),
        (Tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (Tensor([date(2024, 2, 29)]), ["2024-02-29"]),
        (Path("/a/b"), "/a/b"),
        (datetime(2024, 2, 29, 12, tzinfo=UTC), "2024-02-29T12:00:00Z"),
        (timedelta(seconds=90), "PT1M30S"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Decimal("1.50"), "1.50"),
        (Colour.RED, "red"),
        ([Level.HIGH, True, None], [3, True, None]),
        ({Path("a")}, ["a"]),
        (Pair(Path("a"), 1), ["a", 1]),
        (OrderedDict(a=1), {"a": 1}),
        (Face(Tensor(0.5), Path("a")), {"score": 0.5, "file": "a"}),
        (
            Faces(faces=[Face(Tensor(1.0), Path("a"))], mean=Tensor([1.0]), Size=2),
            {"faces": [{"score": 1.0, "file": "a"}], "mean": [1.0], "size": 2},
        ),
        (
            {1: 1, None: 2, Path("a"): 3, Tensor(4): 5, Colour.RED: 6},
            {"1": 1, "null": 2, "a": 3, "4": 5, "red": 6},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_output_is_stored_as_json_has_it(stage: Stage, value: Any, stored: Any) -> None:
    assert output_of(stage, {"value": [value]}) == {"value": [stored]}


def test_an_output_may_be_of_numpy(stage: Stage) -> None:
    numpy = pytest.importorskip("numpy")
    values, counts = numpy.unique([7, 7, 9], return_counts=True)
    output = {
        "scores": numpy.array([0.5, 1.0], dtype="float32"),
        "best": numpy.float32(0.5),
        "mean": numpy.float64(0.75),
        "is_face": numpy.bool_(True),
        "counts": dict(zip(values, counts, strict=True)),
        "size": numpy.zeros([2, 3]).shape,
    }
    assert output_of(stage, output) == {
        "scores": [0.5, 1.0],
        "best": 0.5,
        "mean": 0.75,
        "is_face": True,
        "counts": {"7": 2, "9": 1},
        "size": [2, 3],
    }


def test_paths_as_objects_and_in_models_become_the_real_ones(stage: Stage, target: Path) -> None:
    def tell(call: Call) -> dict[str, Any]:
        place = Path(call.params.output_paths[0])
        place.touch()
        return {"status": "ok", "task_output": {"file": place, "face": Face(1.0, place), place: {place}}}

    record = stage.run(tell, output_paths=[str(target)])
    assert record is not None
    real = str(target)
    assert record.task_output == {"file": real, "face": {"score": 1.0, "file": real}, real: [real]}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            {"faces": [1, 2, 3, {"score": math.nan}]},
            "task_output.faces[3].score is nan, which JSON does not have",
        ),
        ({"a b": [math.inf]}, "task_output['a b'][0] is inf, which JSON does not have"),
        ({"mean": Tensor([1.0, -math.inf])}, "task_output.mean[1] is -inf, which JSON does not have"),
        ({"face": Face(math.nan, Path("a"))}, "task_output.face.score is nan, which JSON does not have"),
        ({"thumb": b"x"}, "task_output.thumb is a bytes, which JSON does not have"),
        ({"all": {object}}, "task_output.all[0] is a type, which JSON does not have"),
        (
            {"face": Face(object(), Path("a"))},
            "task_output.face is a Face, which JSON does not have",
        ),
        ({"ids": iter([1])}, "task_output.ids is a list_iterator, which JSON does not have"),
        ({"at": {(1, 2): "x"}}, "task_output.at has the key (1, 2), which is no text"),
        ({"at": {math.nan: "x"}}, "task_output.at[nan] is nan, which JSON does not have"),
        ({"large": 10**5000}, "task_output.large is an integer of too many digits"),
        ({"odd": Tensor(Tensor)}, "task_output.odd is a type, which JSON does not have"),
    ],
    ids=[
        "nan",
        "inf",
        "tensor",
        "dataclass",
        "bytes",
        "type",
        "in a dataclass",
        "iterator",
        "key",
        "nan as key",
        "int",
        "odd",
    ],
)
def test_an_output_that_json_cannot_hold_is_an_error_that_names_the_place(
    stage: Stage, output: dict[Any, Any], message: str
) -> None:
    assert stage.error_of(lambda _: {"status": "ok", "task_output": output}).startswith(message)


def test_an_output_that_holds_itself_is_an_error(stage: Stage) -> None:
    output: dict[str, Any] = {}
    output["self"] = [output]
    message = stage.error_of(lambda _: {"status": "ok", "task_output": output})
    assert message.endswith("it is nested deeper than 100 levels")
    stage.store.delete("a")
    endless = Tensor(None)
    endless.tolist = lambda: endless  # type: ignore[method-assign]
    message = stage.error_of(lambda _: {"status": "ok", "task_output": {"x": endless}})
    assert message.startswith("task_output.x is a Tensor, which JSON does not have")


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return {"value": value}


def test_an_output_that_no_answer_could_carry_is_an_error_that_says_so(stage: Stage) -> None:
    message = stage.error_of(lambda _: {"status": "ok", "task_output": nested(101)})
    assert message.endswith("it is nested deeper than 100 levels")


def test_an_output_that_is_nested_as_deep_as_may_be_is_told(stage: Stage) -> None:
    record = stage.run(lambda _: {"status": "ok", "task_output": nested(100)})
    assert record is not None
    assert record.model_dump(mode="json")["task_output"] == nested(100)


def test_parameters_that_no_answer_could_carry_are_refused(store: RedisJobStore) -> None:
    with pytest.raises(InvalidJobError, match=r"params .* nested deeper than 100 levels"):
        store.add(Job(job_id="a", task_type="probe", params=nested(101)))


def test_an_awaited_future_that_somebody_cancelled_is_the_plugins_error(stage: Stage) -> None:
    async def wait_for_a_cancelled_one(_: Call) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    assert "CancelledError" in stage.error_of(wait_for_a_cancelled_one)


def test_an_error_that_is_worth_another_try_is_queued_again_until_the_tries_are_used_up(stage: Stage) -> None:
    def fail(_: Call) -> None:
        raise ConnectionResetError("peer is away")

    module = Plugin(fail)
    module.autoretry_for = (OSError,)
    module.max_retries = 1
    module.default_retry_delay = 0
    for state in (RequeueState.QUEUED, RequeueState.ENDED):
        stage.run(module)
        assert isinstance(stage.ended, RetryLater)
        claim = Claim(Job(job_id="a", task_type="probe", params={}), "t")
        assert retry_later(claim, stage.ended, stage.store, HERE).state is state
    record = stage.store.get("a")
    assert record is not None
    assert (record.status, record.failures) == ("error", 2)
    assert record.error_message == "ConnectionResetError: peer is away"


@pytest.mark.parametrize("failures", [0, 10_000])
def test_tries_without_a_bound_go_on_and_their_pause_has_one(stage: Stage, failures: int) -> None:
    module = Plugin(lambda _: raise_(OSError("busy")))
    module.autoretry_for = [OSError]  # type: ignore[assignment]  # as people write it
    module.max_retries = None
    module.retry_backoff, module.retry_jitter = True, False
    stage.store.add(Job(job_id="a", task_type="probe", params={}))
    stage.store.client.hset(stage.store.keys("job", "a"), "failures", str(failures))
    stage.run(module)
    assert isinstance(stage.ended, RetryLater)
    assert stage.ended.delay_seconds == (600.0 if failures else 1.0)
    claim = Claim(Job(job_id="a", task_type="probe", params={}), "t")
    assert retry_later(claim, stage.ended, stage.store, HERE).state is RequeueState.WAITING


def test_of_very_many_failed_tries_the_first_and_the_latest_are_remembered(store: RedisJobStore) -> None:
    store.add(Job(job_id="a", task_type="probe", params={}))
    for attempt in range(1, 31):
        store.claim("a", token="t", owner=HERE, sequence=0, lease_seconds=30)
        store.requeue(
            "a", owner=HERE, cause=RequeueCause.FAILED, detail=f"number {attempt}", max_retries=99, token="t"
        )
    record = store.get("a")
    assert record is not None
    assert [end.attempt for end in record.history] == [*range(1, 10), *range(20, 31)]


# exceptions in groups


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    """What an `asyncio.TaskGroup` raises, in another one."""
    return BaseExceptionGroup(
        "unhandled errors in a TaskGroup", [BaseExceptionGroup("unhandled errors in a TaskGroup", errors)]
    )


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([OSError("away")], "OSError: away"),
        ([OSError("away"), OSError("away")], "OSError: away"),
        ([OSError("away"), KeyError("x")], "OSError: away; KeyError: 'x'"),
        ([ValueError(n) for n in range(6)], "ValueError: 0; ValueError: 1; ValueError: 2; 3 more"),
    ],
    ids=["one", "one twice", "two", "six"],
)
def test_of_a_group_the_exceptions_in_it_are_told_and_the_whole_is_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture, errors: list[BaseException], message: str
) -> None:
    raised = group(*errors)
    assert stage.error_of(lambda _: raise_(raised)) == message
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [raised]


def test_a_cancellation_in_a_group_is_the_plugins_error(stage: Stage) -> None:
    message = stage.error_of(lambda _: raise_(group(asyncio.CancelledError())))
    assert message.startswith("CancelledError: the plugin cancelled itself")


@pytest.mark.parametrize(
    ("errors", "is_tried_again"),
    [
        ([ConnectionResetError("away")], True),
        ([ConnectionResetError("away"), TimeoutError("slow")], True),
        ([ConnectionResetError("away"), ValueError("x")], False),
        ([ConnectionResetError("away"), FileNotFoundError("x")], False),
        ([BadInputError("x is empty")], False),
    ],
    ids=["one", "two", "one that is final", "one that is said to be final", "bad input"],
)
def test_a_group_is_worth_another_try_when_all_exceptions_in_it_are(
    stage: Stage, errors: list[BaseException], is_tried_again: bool
) -> None:
    module = Plugin(lambda _: raise_(group(*errors)))
    module.autoretry_for = (OSError, BadInputError)
    module.dont_autoretry_for = (FileNotFoundError,)
    stage.run(module)
    assert isinstance(stage.ended, RetryLater) is is_tried_again


def test_an_error_of_a_task_in_a_task_group_is_tried_again(stage: Stage) -> None:
    async def fail_in_a_task(_: Call) -> None:
        async def fail() -> None:
            raise ConnectionResetError("peer is away")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(asyncio.sleep(60))

    module = Plugin(fail_in_a_task)
    module.autoretry_for = (OSError,)
    stage.run(module)
    assert isinstance(stage.ended, RetryLater)
    assert stage.ended.detail == "ConnectionResetError: peer is away"


def test_a_plugin_may_ask_for_another_try_after_any_group(stage: Stage) -> None:
    module = Plugin(lambda _: raise_(ExceptionGroup("all of them", [ValueError("x")])))
    module.autoretry_for = (ExceptionGroup,)
    stage.run(module)
    assert isinstance(stage.ended, RetryLater)


def test_a_soft_time_limit_that_strikes_in_a_task_group_is_told_as_one(stage: Stage) -> None:
    stage.limits = TimeLimits(5.0, 3600.0, soft_errors=(Interrupted,))
    message = stage.error_of(lambda _: raise_(group(ValueError("x"), Interrupted())))
    assert message == "stopped at its soft time limit of 5 s"


def test_a_run_that_is_lost_while_it_works_in_a_task_group_stores_nothing(stage: Stage) -> None:
    stage.lease_seconds = 0.3

    async def lose(call: Call) -> None:
        async def child() -> None:
            report_for_ever(call)

        stage.let_another_win()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())

    record = stage.run(lose)
    assert stage.ended is None
    assert record is not None
    assert record.task_output == {"by": "the winner"}


def test_the_end_of_the_process_goes_up_out_of_a_group(stage: Stage) -> None:
    stage.is_process_ending = lambda _: True
    end = SystemExit(3)
    with pytest.raises(SystemExit) as raised:
        stage.run(lambda _: raise_(group(ValueError("x"), end)))
    assert raised.value is end
    record = stage.store.get("a")
    assert record is not None
    assert record.status == "processing", "nothing is stored: recovery decides"


# outputs


def test_outputs_appear_at_their_places_when_the_plugin_has_succeeded(stage: Stage, target: Path) -> None:
    seen: dict[str, object] = {}

    def write(call: Call) -> dict[str, Any]:
        (place,) = call.params.output_paths
        seen.update(
            name=Path(place).name, parent_exists=Path(place).parent.is_dir(), moved=place != str(target)
        )
        Path(place).write_text("hello")
        seen.update(visible=target.exists())
        return OK

    stage.run(write, output_paths=[str(target)])
    assert seen == {"name": "a.txt", "parent_exists": True, "moved": True, "visible": False}
    assert files_below(target.parent) == {"a.txt": "hello"}


def test_the_job_and_its_parameters_name_the_same_paths_to_the_plugin(stage: Stage, target: Path) -> None:
    seen: list[Any] = []

    def look(call: Call) -> dict[str, Any]:
        seen.extend([call.job.params["output_paths"], call.params.output_paths, call.job.params["width"]])
        return OK

    record = stage.run(look, output_paths=[str(target)], width=4)
    assert seen[0] == seen[1] != [str(target)]
    assert seen[2] == 4
    assert record is not None
    assert record.params["output_paths"] == [str(target)], "the record keeps the real ones"


def test_whatever_else_a_plugin_writes_beside_its_outputs_comes_along(stage: Stage, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "tiles").mkdir()
    (target.parent / "tiles" / "old.txt").write_text("old")
    (target.parent / "tiles" / "0.txt").write_text("old")

    def write(call: Call) -> dict[str, Any]:
        folder = Path(call.params.output_paths[0]).parent
        for name in ("a.txt", "b.txt", "tiles/0.txt", "tiles/deep/1.txt", "new/2.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("new")
        return OK

    stage.run(write, output_paths=[str(target)])
    assert files_below(target.parent) == {
        "a.txt": "new",
        "b.txt": "new",
        "new/2.txt": "new",
        "tiles/0.txt": "new",
        "tiles/deep/1.txt": "new",
        "tiles/old.txt": "old",
    }


def test_an_output_that_a_plugin_did_not_write_is_told_in_the_log(
    stage: Stage, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = stage.run(lambda _: {"status": "ok"}, output_paths=[str(target)])
    assert record is not None
    assert record.status == "completed"
    assert f"job a: done, and did not write {target}" in caplog.text


def test_an_output_that_is_a_link_counts_as_not_written_since_no_list_has_it(
    stage: Stage, target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "cache.txt"
    elsewhere.write_text("kept")

    def link(call: Call) -> dict[str, Any]:
        Path(call.params.output_paths[0]).symlink_to(elsewhere)
        return OK

    stage.run(link, output_paths=[str(target)])
    assert f"job a: done, and did not write {target}" in caplog.text


def test_outputs_may_lie_in_several_directories(stage: Stage, tmp_path: Path) -> None:
    places = [tmp_path / "out" / "a.txt", tmp_path / "out" / "sub" / "b.txt", tmp_path / "else" / "a.txt"]

    def write(call: Call) -> dict[str, Any]:
        for number, place in enumerate(call.params.output_paths):
            Path(place).write_text(str(number))
        return {"status": "ok", "task_output": {"files": call.params.output_paths}}

    record = stage.run(write, output_paths=[str(place) for place in places])
    assert files_below(tmp_path) == {"out/a.txt": "0", "out/sub/b.txt": "1", "else/a.txt": "2"}
    assert record is not None
    assert record.task_output == {"files": [str(place) for place in places]}


def test_every_path_in_the_output_is_the_real_one(stage: Stage, target: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)

    def tell(call: Call) -> dict[str, Any]:
        place = Path(call.params.output_paths[0])
        place.write_text("")
        return {
            "status": "ok",
            "task_output": {
                "file": str(place),
                "folder": str(place.parent),
                "nested": [{"file": [str(place)]}],
                str(place): 1,
                "text": f"wrote {place} and {place.parent}/b.txt",
                "resolved": str(place.resolve()),
                "relative": os.path.relpath(place, place.parent.parent),
                "other": "/etc/hosts",
            },
        }

    asked = link / "out" / "a.txt"
    record = stage.run(tell, output_paths=[str(asked)])
    assert record is not None
    assert record.task_output == {
        "file": str(asked),
        "folder": str(asked.parent),
        "nested": [{"file": [str(asked)]}],
        str(asked): 1,
        "text": f"wrote {asked} and {asked.parent}/b.txt",
        "resolved": str(target.resolve()),
        "relative": "a.txt",
        "other": "/etc/hosts",
    }


def test_every_path_in_an_error_message_is_the_real_one(stage: Stage, target: Path) -> None:
    def fail(call: Call) -> None:
        Path(call.params.output_paths[0]).read_text()

    message = stage.error_of(fail, output_paths=[str(target)])
    assert message == f"FileNotFoundError: [Errno 2] No such file or directory: '{target}'"


def write_then(call: Call, end: Callable[[], Any]) -> Any:
    Path(call.params.output_paths[0]).write_text("half")
    return end()


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "end",
    [
        lambda: {"status": "error", "error": "no"},
        lambda: None,
        lambda: {"status": "ok", "task_output": {"x": b"1"}},
        lambda: raise_(RuntimeError("no")),
    ],
    ids=["error result", "no result", "not JSON", "exception"],
)
def test_a_run_that_does_not_succeed_leaves_no_file_and_touches_none(
    stage: Stage, target: Path, end: Callable[[], Any]
) -> None:
    target.parent.mkdir()
    target.write_text("from before")
    stage.error_of(lambda call: write_then(call, end), output_paths=[str(target)])
    assert files_below(target.parent) == {"a.txt": "from before"}


def test_a_run_that_is_broken_from_outside_leaves_no_file(stage: Stage, target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stage.run(
            lambda call: write_then(call, lambda: raise_(KeyboardInterrupt())), output_paths=[str(target)]
        )
    assert files_below(target.parent) == {}
    record = stage.store.get("a")
    assert record is not None
    assert record.status == "processing", "nothing is stored: recovery decides"


# what a plugin changes of its process


def log_state() -> dict[str, Any]:
    loggers = [
        logging.root,
        *(logging.getLogger(f"{name}.test_execution") for name in ("cl_ml_tools", "celery")),
    ]
    return {
        "disable": logging.root.manager.disable,
        "streams": (sys.stdout, sys.stderr),
        "loggers": [(log.level, log.disabled, log.propagate, list(log.handlers)) for log in loggers],
    }


def reconfigure(version: int = 1, **more: Any) -> None:
    logging.config.dictConfig({"version": version, "root": {"level": "CRITICAL", "handlers": []}, **more})


def change_each_logger() -> None:
    for name in ("cl_ml_tools", "celery"):
        log = logging.getLogger(f"{name}.test_execution")
        log.setLevel(logging.CRITICAL)
        log.addHandler(logging.NullHandler())
        log.propagate = False


def replace_the_streams() -> None:
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: logging.basicConfig(force=True), "a plugin has changed the logging (root)"),
        (reconfigure, "a plugin has changed the logging (root, "),
        (lambda: logging.disable(), "a plugin has changed the logging (logging.disable)"),
        (change_each_logger, ".test_execution)"),
        (replace_the_streams, "a plugin has replaced sys.stdout and sys.stderr"),
    ],
    ids=["basicConfig", "dictConfig", "disable", "loggers", "streams"],
)
def test_a_plugin_that_changes_the_logging_finds_it_put_back_and_its_error_is_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture, change: Callable[[], None], told: str
) -> None:
    before = log_state()

    def silence_and_fail(_: Call) -> None:
        change()
        raise RuntimeError("unheard of")

    stage.error_of(silence_and_fail)
    assert log_state() == before
    assert [record for record in caplog.records if record.exc_info], "its traceback"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told in warning


def test_of_plugins_that_run_at_once_the_last_one_puts_the_logging_back() -> None:
    before = log_state()
    with kept_surroundings():
        with kept_surroundings():
            logging.disable()
        assert logging.root.manager.disable == logging.CRITICAL, "it may be the other one's"
        with kept_surroundings():
            assert log_state() != before
    assert log_state() == before


def test_a_plugin_that_leaves_the_logging_alone_is_not_told_of(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def log(_: Call) -> dict[str, Any]:
        logging.getLogger("cl_ml_tools.a_new_one").warning("heard")
        logging.getLogger("a.plugin").setLevel(logging.DEBUG)
        return OK

    stage.run(log)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == ["heard"]


# progress


def test_progress_is_stored_while_the_plugin_works(stage: Stage) -> None:
    def report(call: Call) -> dict[str, Any]:
        call.report(30)
        wait_until(lambda: progress(stage) == 30)
        call.report(60)
        wait_until(lambda: progress(stage) == 60, seconds=5, why="a second report, right after the first")
        return OK

    stage.run(report)


def progress(stage: Stage) -> int:
    record = stage.store.get("a")
    assert record is not None
    return record.progress


def test_a_report_too_soon_after_the_last_is_written_when_its_time_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    really = stage.store.report

    def report_and_tell(*arguments: Any, **options: Any) -> RunState:
        state = really(*arguments, **options)
        written.set()
        return state

    monkeypatch.setattr(stage.store, "report", report_and_tell)

    def report(call: Call) -> dict[str, Any]:
        call.report(30)
        assert written.wait(5)
        call.report(60)  # at once: within the shortest time between two writes
        wait_until(lambda: progress(stage) == 60, seconds=5)
        return OK

    stage.run(report)


def test_odd_progress_values_are_cut_or_ignored(stage: Stage) -> None:
    def report(call: Call) -> dict[str, Any]:
        values: list[Any] = [-3, None, float("nan"), float("inf"), "soon", 12.7, 5, 250]
        for value in values:
            call.report(value)
        wait_until(lambda: progress(stage) == 99)
        return OK

    record = stage.run(report)
    assert record is not None
    assert record.progress == 100


def test_progress_may_come_from_a_thread_of_the_plugin(stage: Stage) -> None:
    async def report(call: Call) -> dict[str, Any]:
        await asyncio.to_thread(call.report, 40)
        await asyncio.to_thread(wait_until, lambda: progress(stage) == 40)
        return OK

    stage.run(report)


def test_a_job_that_ends_in_error_shows_the_last_progress(stage: Stage) -> None:
    def report(call: Call) -> dict[str, Any]:
        for value in range(1, 78):
            call.report(value)
        return {"status": "error", "error": "no"}

    record = stage.run(report)
    assert record is not None
    assert record.progress == 77


def test_progress_that_comes_after_the_end_is_ignored(stage: Stage) -> None:
    callbacks: list[ProgressCallback] = []

    def keep(call: Call) -> dict[str, Any]:
        callbacks.append(call.report)
        return OK

    before = stage.run(keep)
    callbacks[0](50)
    assert stage.store.get("a") == before


# being told to stop


def test_a_plugin_that_awaits_is_cancelled_when_its_job_is_cancelled(stage: Stage, target: Path) -> None:
    stage.lease_seconds = 0.3
    cleaned_up: list[str] = []

    async def wait(call: Call) -> None:
        Path(call.params.output_paths[0]).write_text("half")
        stage.store.cancel("a")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaned_up.append("yes")
            raise

    record = stage.run(wait, output_paths=[str(target)])
    assert record is not None
    assert (record.status, record.error_message) == ("cancelled", "cancelled while it ran")
    assert cleaned_up == ["yes"]
    assert files_below(target.parent) == {}


def test_a_run_that_is_told_to_stop_before_it_begins_does_not_begin(stage: Stage) -> None:
    begun: list[Call] = []

    stage.store.add(Job(job_id="a", task_type="probe", params={}))
    claim = stage.claim()
    monitored = LeasedRun(
        stage.store,
        job_id="a",
        token="t",
        owner=HERE,
        claimed_at=lease_clock(),
        lease_seconds=30,
        progress_interval_seconds=60,
    )
    with Execution(Plugin(begun.append), claim, monitored, limits=stage.limits) as execution:
        stage.store.cancel("a")
        monitored.report(1)
        monitored.flush()
        ended = run_on_thread_loop(execution.run())
    assert ended == Outcome(JobStatus.CANCELLED, error_message="cancelled while it ran")
    assert begun == [], "nobody would cancel it: it was told to stop already"


def report_for_ever(call: Call) -> None:
    number = 0
    while True:
        number += 1
        call.report(number % 100)


def test_a_plugin_that_reports_is_stopped_in_its_report(stage: Stage) -> None:
    raised: list[BaseException] = []

    def cancel_and_report(call: Call) -> None:
        stage.store.cancel("a")
        try:
            report_for_ever(call)
        except Exception:  # noqa: BLE001 - as plugins do
            pytest.fail("a plugin's own `except Exception` must not catch it")
        except BaseException as error:
            raised.append(error)
            raise

    record = stage.run(cancel_and_report)
    assert record is not None
    assert record.status == "cancelled"
    assert [type(error) for error in raised] == [JobStopped]


def test_a_plugin_that_reports_from_a_task_group_is_stopped(stage: Stage) -> None:
    async def cancel_and_report(call: Call) -> None:
        async def child() -> None:
            report_for_ever(call)

        stage.store.cancel("a")
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    record = stage.run(cancel_and_report)
    assert record is not None
    assert record.status == "cancelled"


@pytest.mark.parametrize("end", ["ok", "error", "exception"])
def test_a_plugin_that_swallows_its_cancellation_is_cancelled_all_the_same(
    stage: Stage, target: Path, end: str
) -> None:
    stage.lease_seconds = 0.3

    async def swallow(call: Call) -> dict[str, Any]:
        Path(call.params.output_paths[0]).write_text("whole")
        stage.store.cancel("a")
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if end == "exception":
            raise RuntimeError("the connection was closed")
        return {"status": end, "error": "no"}

    record = stage.run(swallow, output_paths=[str(target)])
    assert record is not None
    assert record.status == "cancelled"
    assert files_below(target.parent) == {}


def test_a_run_of_a_deleted_job_stops_and_its_record_goes(stage: Stage, target: Path) -> None:
    stage.lease_seconds = 0.3

    async def wait(call: Call) -> None:
        stage.store.delete("a")
        await asyncio.Event().wait()

    assert stage.run(wait, output_paths=[str(target)]) is None
    assert stage.finished is Finished.DELETED
    assert not stage.store.client.exists(stage.store.keys("job", "a"))
    assert files_below(target.parent) == {}


def test_a_run_that_hears_that_it_is_lost_stops_and_stores_nothing(stage: Stage, target: Path) -> None:
    stage.lease_seconds = 0.3

    async def lose(call: Call) -> None:
        Path(call.params.output_paths[0]).write_text("the loser's")
        stage.let_another_win()
        target.write_text("the winner's")
        await asyncio.Event().wait()

    record = stage.run(lose, output_paths=[str(target)])
    assert stage.ended is None
    assert record is not None
    assert (record.status, record.task_output) == ("completed", {"by": "the winner"})
    assert files_below(target.parent) == {"a.txt": "the winner's"}


def test_a_run_that_has_not_heard_that_it_is_lost_leaves_the_winners_files_alone(
    stage: Stage, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a process that was frozen for longer than its lease: it goes on in the midst of its work."""
    stage.lease_seconds = 0.2
    really = stage.store.extend

    def no_answer(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("away")

    def lose(call: Call) -> dict[str, Any]:
        begin = time.monotonic()
        Path(call.params.output_paths[0]).write_text("the loser's")
        wait_until(lambda: time.monotonic() > begin + stage.lease_seconds)
        stage.let_another_win()
        target.write_text("the winner's")
        monkeypatch.setattr(stage.store, "extend", really)
        return OK

    monkeypatch.setattr(stage.store, "extend", no_answer)
    record = stage.run(lose, output_paths=[str(target)])
    assert record is not None
    assert record.task_output == {"by": "the winner"}
    assert files_below(target.parent) == {"a.txt": "the winner's"}


def test_a_run_keeps_its_lease(stage: Stage) -> None:
    stage.lease_seconds = 0.3

    def lease_end() -> float:
        return stage.store.client.zscore(stage.store.keys("leases"), "a") or 0.0

    def wait(_: Call) -> dict[str, Any]:
        first = lease_end()
        # The claim's lease is 30 s: the first extension shows as an earlier end, the next ones as later ones.
        wait_until(lambda: lease_end() < first)
        shortened = lease_end()
        wait_until(lambda: lease_end() > shortened)
        return OK

    record = stage.run(wait)
    assert record is not None
    assert record.status == "completed"


def test_a_plugin_that_awaits_is_stopped_at_its_own_time_limit(stage: Stage, target: Path) -> None:
    stage.limits = TimeLimits(0.05, 3600.0)

    async def wait(call: Call) -> None:
        Path(call.params.output_paths[0]).write_text("half")
        await asyncio.Event().wait()

    message = stage.error_of(wait, output_paths=[str(target)])
    assert message == "stopped at its soft time limit of 0.05 s"
    assert files_below(target.parent) == {}


def test_a_plugins_own_timeout_is_not_told_as_a_time_limit(stage: Stage) -> None:
    stage.limits = TimeLimits(60.0, 3600.0)

    async def wait(_: Call) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    assert stage.error_of(wait).startswith("TimeoutError")


def test_a_plugin_that_neither_awaits_nor_reports_loses_its_job_at_the_time_limit(
    stage: Stage, target: Path
) -> None:
    stage.time_limit = 0.05

    def work(call: Call) -> dict[str, Any]:
        Path(call.params.output_paths[0]).write_text("too late")
        wait_until(lambda: (job := stage.store.get("a")) is not None and job.status == "error")
        return OK

    message = stage.error_of(work, output_paths=[str(target)])
    assert message == "stopped at its time limit of 0.05 s"
    assert files_below(target.parent) == {}


# storing the outcome


def test_an_outcome_waits_for_a_store_that_is_away(own_server: EmbeddedRedis, target: Path) -> None:
    def write_and_cut_off(call: Call) -> dict[str, Any]:
        Path(call.params.output_paths[0]).write_text("hello")
        os.kill(own_server.pid, signal.SIGSTOP)
        return OK

    def reconnect() -> None:
        os.kill(own_server.pid, signal.SIGCONT)

    with RedisJobStore(own_server.redis_url, timeout_seconds=0.1) as store:
        stage = Stage(store)
        with when_logged("waits for the store", reconnect):
            record = stage.run(write_and_cut_off, output_paths=[str(target)])
    assert stage.finished is Finished.STORED
    assert record is not None
    assert record.status == "completed"
    assert files_below(target.parent) == {"a.txt": "hello"}


def test_an_outcome_is_given_up_when_its_patience_ends(
    own_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "PATIENCE_SECONDS", 0.0)

    def cut_off(_: Call) -> dict[str, Any]:
        own_server.stop()
        return OK

    with (
        RedisJobStore(own_server.redis_url, timeout_seconds=0.1) as store,
        pytest.raises(StoreUnavailableError),
    ):
        Stage(store).run(cut_off)
    own_server.start()


# the event loop of a thread


class Interrupted(Exception):  # noqa: N818 - no error, a stop
    """What a time limit's signal raises."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `Interrupted` in the main thread, from a signal."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def others() -> set["asyncio.Task[Any]"]:
    """All tasks of the loop but this one."""
    current = asyncio.current_task()
    assert current is not None
    return asyncio.all_tasks() - {current}


def test_the_loop_is_kept_between_runs_and_each_thread_has_its_own() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    first, second = run_on_thread_loop(loop()), run_on_thread_loop(loop())
    elsewhere: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: elsewhere.append(run_on_thread_loop(loop())))
    thread.start()
    thread.join()
    assert first is second
    assert elsewhere[0] is not first


def test_a_coroutine_that_a_signal_breaks_is_cancelled_and_drained_and_the_next_run_is_clean() -> None:
    ends: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ends.append("cleaned up")
            raise

    with interrupted_after(0.05), pytest.raises(Interrupted):
        run_on_thread_loop(wait())
    assert ends == ["cleaned up"]
    assert run_on_thread_loop(others()) == set()


def test_an_outcome_is_not_lost_to_a_signal_that_comes_when_the_run_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really = asyncio.BaseEventLoop.run_until_complete
    strikes = [Interrupted]

    def struck_at_the_end(loop: asyncio.BaseEventLoop, future: Any) -> Any:
        answer = really(loop, future)
        if strikes:
            raise strikes.pop()
        return answer

    async def done() -> str:
        return "the outcome"

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_until_complete", struck_at_the_end)
    assert run_on_thread_loop(done()) == "the outcome"


def test_a_run_that_a_signal_breaks_leaves_no_file_and_no_outcome(stage: Stage, target: Path) -> None:
    async def wait(call: Call) -> None:
        Path(call.params.output_paths[0]).write_text("half")
        await asyncio.Event().wait()

    with interrupted_after(0.1), pytest.raises(Interrupted):
        stage.run(wait, output_paths=[str(target)])
    assert files_below(target.parent) == {}
    record = stage.store.get("a")
    assert record is not None
    assert record.status == "processing"


def test_a_run_that_the_end_of_its_process_breaks_off_is_not_told_as_a_plugins_error(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_for_the_end(_: Call) -> None:
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(60)

    stage.store.add(Job(job_id="a", task_type="probe", params={}))
    claim = stage.claim()
    monitored = LeasedRun(
        stage.store,
        job_id="a",
        token="t",
        owner=HERE,
        claimed_at=lease_clock(),
        lease_seconds=30.0,
        progress_interval_seconds=1.0,
    )
    caplog.set_level(logging.INFO)
    with (
        Execution(
            Plugin(wait_for_the_end),
            claim,
            monitored,
            limits=stage.limits,
            is_process_ending=lambda _: True,
            is_cancelled_by_others=False,
        ) as execution,
        pytest.raises(SystemExit),
    ):
        run_on_thread_loop(execution.run(), execution.interrupted)
    assert "ends in error" not in caplog.text


def test_tasks_that_are_left_behind_are_cancelled() -> None:
    ends: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    async def leave_one_behind() -> str:
        asyncio.create_task(wait())  # noqa: RUF006 - left behind
        await asyncio.sleep(0)
        return "done"

    assert run_on_thread_loop(leave_one_behind()) == "done"
    assert ends == ["cancelled"]


def test_a_task_that_is_left_behind_and_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("cannot stop") from None

    async def leave_one_behind() -> None:
        asyncio.create_task(fail_when_cancelled())  # noqa: RUF006 - left behind
        await asyncio.sleep(0)

    run_on_thread_loop(leave_one_behind())
    assert "left behind failed" in caplog.text


def test_a_coroutine_that_ignores_its_cancellation_does_not_block_the_next_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_loop, "DRAIN_SECONDS", 0.05)
    steps: list[str] = []

    async def ignore() -> None:
        while True:
            steps.append("ignores")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    with interrupted_after(0.05), pytest.raises(Interrupted):
        run_on_thread_loop(ignore())
    assert "its event loop is given up" in caplog.text
    so_far = len(steps)
    assert run_on_thread_loop(others()) == set()
    assert len(steps) == so_far, "it never goes on"


def test_an_exception_of_the_coroutine_is_raised_and_the_next_run_is_clean() -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run_on_thread_loop(fail())
    assert run_on_thread_loop(others()) == set()


def test_runs_in_several_threads_do_not_wait_for_each_other() -> None:
    meeting = threading.Barrier(3)

    async def meet() -> int:
        return meeting.wait(10)  # blocks its own loop, on purpose

    threads = [threading.Thread(target=run_on_thread_loop, args=(meet(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    meeting.wait(10)
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin < 10
