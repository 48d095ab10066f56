"""``celery ml jobs``, ``cancel`` and ``retry``: what an operator does by hand."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner
from harness import PROBE_PLUGINS, ROOT, Environment, all_jobs, ended, wait_until
from job_http import HERE, StoreRepository, add, claim, end

from cl_ml_tools.app import create_celery_app
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.celery_bridge.installation import installations
from cl_ml_tools.cli import ml as ml_group
from cl_ml_tools.common.job_control import JobPage, JobQuery
from cl_ml_tools.common.job_leases import Outcome, RequeueCause
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.job_commands.commands import matching_ids
from cl_ml_tools.job_commands.table import age
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore

HOUR_MS = 3_600_000
SEVERAL_PAGES = 450


@dataclass(frozen=True)
class Said:
    """What a command has said, and its exit code."""

    code: int
    output: str
    errors: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


@pytest.fixture
def command(environment: Environment) -> Callable[..., Said]:
    """Run a command of Celery's, where no terminal is."""

    def run(*words: str, app: str = "cl_ml_tools", **variables: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", app, *words],
            env={**os.environ, "PYTHONPATH": str(PROBE_PLUGINS), **environment.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            cwd=ROOT,
        )
        assert "Traceback" not in done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def ml(environment: Environment) -> Iterator[Callable[..., Said]]:
    """Run ``celery ml`` in this process, which is quick."""
    app = create_celery_app(Settings.from_environment(environment.variables))

    def run(*words: str) -> Said:
        done = CliRunner().invoke(ml_group, words, obj=CLIContext(app, True, None), catch_exceptions=False)
        return Said(done.exit_code, done.stdout, done.stderr)

    yield run
    installations[app].store.close()


def add_many(
    store: RedisJobStore, count: int, task_type: str = "probe", created_by: str | None = None
) -> None:
    jobs = [Job(job_id=f"{task_type}-{number}", task_type=task_type, params={}) for number in range(count)]
    for _ in store.add_all(jobs, created_by=created_by):
        """No message is sent."""


def pass_ms(store: RedisJobStore, ms: int) -> None:
    """Let the record's clock go forward."""
    store.client.hincrby(store.keys("meta"), "time_offset_ms", ms)


def fail(store: RedisJobStore, job_id: str, message: str) -> None:
    claim(store, job_id)
    store.finish(job_id, token="t", outcome=Outcome(JobStatus.ERROR, None, message))


def statuses(store: RedisJobStore) -> dict[str, str]:
    return {job.job_id: str(job.status) for job in all_jobs(store)}


def ids_of(said: Said) -> list[str]:
    assert said.code == 0, said
    return [json.loads(line)["job_id"] for line in said.lines]


def test_jobs_are_shown_newest_first_with_what_an_operator_asks_for(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    for job_id in ("done", "bad", "running", "stopping", "waiting"):
        add(store, job_id)
        pass_ms(store, HOUR_MS)
    end(store, "done")
    fail(store, "bad", "\nIt went \x1b[31mwrong\nfor a reason")
    for job_id in ("running", "stopping"):
        claim(store, job_id)
    store.report("running", token="t", progress=40)
    store.cancel("stopping")
    said = ml("jobs")
    assert said.code == 0, said
    assert [line.split(None, 7) for line in said.lines] == [
        ["ID", "TYPE", "STATUS", "PROGRESS", "PRIORITY", "AGE", "ATTEMPT", "NODE OR ERROR"],
        ["waiting", "probe", "queued", "0%", "5", "1h", "0"],
        ["stopping", "probe", "processing", "0%", "5", "2h", "1", "here (stopping)"],
        ["running", "probe", "processing", "40%", "5", "3h", "1", "here"],
        ["bad", "probe", "error", "0%", "5", "4h", "1", "It went ?[31mwrong"],
        ["done", "probe", "completed", "100%", "5", "5h", "1"],
    ]
    # Each value begins below its column's name.
    column = said.lines[0].index("STATUS")
    assert {line[column:].split()[0] for line in said.lines[1:]} == {
        "queued",
        "processing",
        "error",
        "completed",
    }


def test_jobs_are_filtered_by_status_type_creator_and_time(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    add(store, "old", "ann", "resize")
    pass_ms(store, 3 * HOUR_MS)
    boundary = store.now()
    add(store, "anns", "ann", "resize")
    add(store, "bobs", "bob", "convert")
    add(store, "nobodys", None, "resize")
    end(store, "bobs")
    iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(boundary // 1000))
    for options, expected in (
        (["--status", "completed"], ["bobs"]),
        (["--type", "resize"], ["nobodys", "anns", "old"]),
        (["--creator", "ann"], ["anns", "old"]),
        (["--creator", ""], ["nobodys"]),
        (["--since", "2h", "--type", "resize"], ["nobodys", "anns"]),
        (["--since", iso, "--creator", "ann"], ["anns"]),
        (["--since", "2w", "--limit", "2"], ["nobodys", "bobs"]),
    ):
        assert sorted(ids_of(ml("jobs", "--json", *options))) == sorted(expected), options
    said = ml("jobs", "--status", "error")
    assert (said.code, said.output) == (0, "No job matches.\n")


def test_a_long_list_comes_whole_and_a_limit_says_that_there_is_more(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    add_many(store, SEVERAL_PAGES)
    said = ml("jobs", "--limit", "100000")
    assert len({line.split()[0] for line in said.lines}) == SEVERAL_PAGES + 1
    assert said.errors == ""
    said = ml("jobs", "--limit", "250")
    assert (len(said.lines), said.errors) == (251, "These are 250; --limit shows more.\n")
    assert len(ml("jobs").lines) == 51


def test_each_line_of_json_is_a_whole_record(ml: Callable[..., Said], store: RedisJobStore) -> None:
    store.add(Job(job_id="a", task_type="probe", params={"name": "\udcff.png"}), created_by="ann")
    claim(store, "a")
    (line,) = ml("jobs", "--json").lines
    record = store.get("a")
    assert record is not None
    assert json.loads(line) == record.model_dump()
    assert record.node == HERE.node


@pytest.mark.parametrize("since", ["2", "2x", "yesterday", "99999999999d", ""])
def test_a_time_that_makes_no_sense_is_refused(ml: Callable[..., Said], since: str) -> None:
    said = ml("jobs", "--since", since)
    assert said.code == 2
    assert "neither like 2h or 3d nor a time" in said.errors


def test_an_age_is_told_in_the_largest_unit_that_it_fills() -> None:
    ages = {
        ms: age(ms) for ms in (-5, 999, 59_999, 60_000, HOUR_MS - 1, HOUR_MS, 24 * HOUR_MS, 90 * 24 * HOUR_MS)
    }
    assert list(ages.values()) == ["0s", "0s", "59s", "1m", "59m", "1h", "1d", "90d"]


def test_named_jobs_are_cancelled_and_each_is_accounted_for(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    for job_id in ("waiting", "running", "done", "other"):
        add(store, job_id, "ann")
    claim(store, "running")
    end(store, "done")
    said = ml("cancel", "waiting", "running", "done", "waiting")
    assert (said.code, said.lines) == (0, ["1 cancelled", "1 ended already", "1 stopping"])
    said = ml("cancel", "nobody", "waiting")
    assert (said.code, said.lines) == (1, ["1 cancelled", "1 unknown"])
    assert said.errors == "there is no job 'nobody'\n"
    assert statuses(store) == {
        "waiting": "cancelled",
        "running": "processing",
        "done": "completed",
        "other": "queued",
    }


def test_all_that_match_are_cancelled_over_several_pages(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    add_many(store, SEVERAL_PAGES, created_by="ann")
    add_many(store, 3, task_type="other")
    claim(store, "probe-7")
    end(store, "probe-8")
    said = ml("cancel", "--type", "probe", "--yes")
    assert (said.code, said.lines) == (0, [f"{SEVERAL_PAGES - 2} cancelled", "1 stopping"])
    assert [job.job_id for job in all_jobs(store) if job.status == "queued"] == [
        "other-2",
        "other-1",
        "other-0",
    ]
    assert "No job matches." in ml("cancel", "--status", "queued", "--creator", "ann", "--yes").output
    assert ml("cancel", "--status", "processing", "--yes").lines == ["1 stopping"]
    assert ml("cancel", "--all", "--yes").lines == ["3 cancelled", "1 stopping"]


def test_many_are_not_cancelled_unless_it_is_said_which_and_that_it_is_meant(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    add_many(store, 3)
    for words, complaint in (
        (["cancel"], "Which jobs?"),
        (["cancel", "--yes"], "Which jobs?"),
        (["retry", "--yes"], "Which jobs?"),
        (["cancel", "probe-1", "--type", "probe"], "not both"),
        (["cancel", "probe-1", "--all"], "not both"),
    ):
        said = ml(*words)
        assert (said.code, complaint in said.errors) == (2, True), said
    said = ml("cancel", "--all")
    assert (said.code, said.output) == (1, "")
    assert said.errors.startswith("Error: Cancel 3 jobs? There is no terminal to ask at: say --yes")
    assert set(statuses(store).values()) == {"queued"}


@pytest.mark.parametrize(("answer", "status"), [("n", "queued"), ("y", "cancelled")])
def test_at_a_terminal_it_is_asked_with_the_number_of_jobs_and_shown_how_far_it_is(
    environment: Environment, store: RedisJobStore, answer: str, status: str
) -> None:
    add_many(store, SEVERAL_PAGES)
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "cl_ml_tools", "ml", "cancel", "--all"],
        env={**os.environ, **environment.variables, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=ROOT,
    )
    os.close(terminal)
    seen = _read_until(screen, f"Cancel {SEVERAL_PAGES} jobs? [y/N]: ")
    os.write(screen, f"{answer}\n".encode())
    seen += _read_until(screen, "450 cancelled" if answer == "y" else "Aborted!")
    process.wait(30)
    os.close(screen)
    assert set(statuses(store).values()) == {status}
    assert ("100%" in seen) == (answer == "y")


def _read_until(screen: int, words: str) -> str:
    seen = ""
    while words not in seen:
        # A terminal that nobody writes to any more fails, and so ends this.
        seen += os.read(screen, 4096).decode()
    return seen


class Restless(StoreRepository):
    """Something happens after the first page of each search."""

    def __init__(self, store: RedisJobStore, *happenings: Callable[[], object]) -> None:
        super().__init__(store)
        self._happenings = list(happenings)

    def find_jobs(self, query: JobQuery) -> JobPage:
        page = super().find_jobs(query)
        if query.after is None and self._happenings:
            self._happenings.pop(0)()
        return page


UNFINISHED = (JobStatus.QUEUED, JobStatus.PROCESSING)


def test_jobs_that_begin_to_run_while_they_are_looked_for_are_found(store: RedisJobStore) -> None:
    add_many(store, SEVERAL_PAGES)

    def begin() -> None:
        for number in range(0, SEVERAL_PAGES, 7):
            claim(store, f"probe-{number}")

    found = matching_ids(Restless(store, begin), JobQuery(of_anybody=True), UNFINISHED)
    assert sorted(found) == sorted(f"probe-{number}" for number in range(SEVERAL_PAGES))


def test_jobs_that_go_back_to_their_queue_while_they_are_looked_for_are_found(store: RedisJobStore) -> None:
    add_many(store, SEVERAL_PAGES)
    running = ["probe-0", f"probe-{SEVERAL_PAGES - 1}"]
    for job_id in running:
        claim(store, job_id)

    def give_back() -> None:
        for job_id in running:
            store.requeue(job_id, owner=HERE, cause=RequeueCause.RELEASED, detail="")

    found = matching_ids(Restless(store, give_back), JobQuery(of_anybody=True), UNFINISHED)
    assert sorted(found) == sorted(f"probe-{number}" for number in range(SEVERAL_PAGES))


def test_jobs_that_are_treated_while_new_ones_arrive_are_those_that_were_there(store: RedisJobStore) -> None:
    add_many(store, SEVERAL_PAGES)
    repository = Restless(store, lambda: add_many(store, 5, "newer"), lambda: add_many(store, 5, "newest"))
    found = matching_ids(repository, JobQuery(of_anybody=True), [JobStatus.QUEUED])
    assert sorted(found) == sorted(f"probe-{number}" for number in range(SEVERAL_PAGES))


def test_named_jobs_are_tried_again_and_the_others_go_on(
    ml: Callable[..., Said],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
    start_worker: Callable[..., object],
) -> None:
    first, second, waiting = submit(job_id="first"), submit(job_id="second"), submit(job_id="waiting")
    repository.cancel_job(first)
    fail(repository.store, second, "once")
    said = ml("retry", first, waiting, "nobody", second)
    assert (said.code, said.lines) == (1, ["2 queued again", "1 refused", "1 unknown"])
    assert "job 'waiting' has not ended" in said.errors
    assert "there is no job 'nobody'" in said.errors
    start_worker("-c", "1")
    assert {ended(repository, job_id).status for job_id in (first, second, waiting)} == {"completed"}


def test_what_is_in_error_is_tried_again_over_several_pages(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    add_many(store, SEVERAL_PAGES)
    add_many(store, 2, "other")
    for number in range(SEVERAL_PAGES):
        fail(store, f"probe-{number}", "x")
    store.cancel("other-0")
    fail(store, "other-1", "x")
    said = ml("retry", "--type", "probe", "--yes")
    assert (said.code, said.lines) == (0, [f"{SEVERAL_PAGES} queued again"])
    # What somebody has cancelled stays so until it is named.
    assert ml("retry", "--since", "1h", "--yes").lines == ["1 queued again"]
    assert statuses(store)["other-0"] == "cancelled"
    assert ml("retry", "--status", "cancelled", "--yes").lines == ["1 queued again"]


@pytest.mark.parametrize("words", [["jobs"], ["cancel", "a"], ["cancel", "--all", "--yes"], ["retry", "a"]])
def test_a_record_that_is_away_and_an_app_of_others_are_told_in_a_line(
    command: Callable[..., Said], words: Sequence[str]
) -> None:
    said = command("ml", *words, CL_ML_TOOLS_REDIS_URL="unix:///nowhere/redis.sock")
    assert (said.code, said.output) == (1, "")
    assert said.errors.startswith("Error: Redis does not answer")
    assert len(said.errors.splitlines()) == 1
    said = command("ml", *words, app="celery")
    assert said.code == 1
    assert said.errors.startswith("Error: cl_ml_tools is not installed on this app")


def test_nothing_is_tried_again_while_the_broker_is_away(
    command: Callable[..., Said], store: RedisJobStore
) -> None:
    add(store, "a")
    store.cancel("a")
    said = command("ml", "retry", "a", CL_ML_TOOLS_BROKER_URL="redis://127.0.0.1:1/0")
    assert (said.code, said.output) == (1, "")
    assert said.errors.startswith("Error: The broker does not answer, nothing was retried")
    assert statuses(store) == {"a": "cancelled"}


@pytest.mark.redis_broker
def test_the_commands_work_on_an_app_that_has_been_there_before(
    command: Callable[..., Said], repository: CeleryJobRepository, submit: Callable[..., str]
) -> None:
    job_id = submit()
    assert ids_of(command("ml", "jobs", "--json", app="existing_celery_app")) == [job_id]
    assert command("ml", "cancel", job_id, app="existing_celery_app").lines == ["1 cancelled"]
    assert command("ml", "retry", job_id, app="existing_celery_app").lines == ["1 queued again"]
    job = repository.get_job(job_id)
    assert job is not None
    assert (job.status, job.retries) == ("queued", 1)


def test_jobs_whose_messages_were_purged_are_sent_again_and_cancelled_ones_are_not(
    command: Callable[..., Said],
    ml: Callable[..., Said],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
    start_worker: Callable[..., object],
    probe_log: Callable[[], list[str]],
) -> None:
    jobs = [submit(["log", "ran"], priority=number % 3) for number in range(9)]
    assert ml("cancel", *jobs[:4]).lines == ["4 cancelled"]
    # Their messages are still there, with those of the others.
    said = command("purge", "--force", "-Q", "cl_ml_tools.probe")
    assert "Purged 9 messages" in said.output, said
    start_worker(
        "-c", "1", CL_ML_TOOLS_LOST_MESSAGE_SECONDS="0.5", CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS="0.2"
    )
    assert {ended(repository, job_id).status for job_id in jobs[4:]} == {"completed"}
    assert {ended(repository, job_id).status for job_id in jobs[:4]} == {"cancelled"}
    assert sorted(line for line in probe_log() if line.endswith(" ran")) == sorted(
        f"{job_id} ran" for job_id in jobs[4:]
    )


@pytest.mark.redis_broker
def test_the_message_of_a_cancelled_job_is_delivered_once_and_dropped(
    ml: Callable[..., Said],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
    start_worker: Callable[..., object],
    probe_log: Callable[[], list[str]],
) -> None:
    jobs = [submit(["log", "ran"]) for _ in range(20)]
    ml("cancel", "--all", "--yes")
    client = repository.store.client
    assert sum(client.llen(key) for key in client.keys("cl_ml_tools.probe*")) == len(jobs)
    start_worker("-c", "1")
    wait_until(lambda: not client.keys("cl_ml_tools.probe*"), why="the messages are taken")
    assert probe_log() == []
    assert {job.status for job in all_jobs(repository.store)} == {"cancelled"}


@pytest.mark.long
def test_twenty_thousand_jobs_are_cancelled_within_a_minute(
    ml: Callable[..., Said], store: RedisJobStore
) -> None:
    add_many(store, 20_000)
    begin = time.monotonic()
    assert ml("cancel", "--all", "--yes").lines == ["20000 cancelled"]
    assert ml("retry", "--status", "cancelled", "--yes").lines == ["20000 queued again"]
    seconds = time.monotonic() - begin
    print(f"{seconds:.1f} s")
    assert seconds < 60
