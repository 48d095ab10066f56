"""What the API and recovery cost when very many jobs have finished."""

import statistics
import time
import uuid
from collections.abc import Callable, Iterator

import httpx2
import pytest
from harness import Environment, Process

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.job_control import JobQuery, Submission
from cl_ml_tools.common.job_leases import Outcome, Owner
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.recovery import recover
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery

FEW = 100
CREATORS = ("ann", "bob", None)
ROUNDS = 41


@pytest.fixture
def redis_server() -> Iterator[EmbeddedRedis]:
    """A server of its own: what it counts and holds is this test's."""
    with EmbeddedRedis() as server:
        yield server


def job_of(job_id: str) -> Job:
    """As a picture's upload makes it."""
    folder = f"/srv/media/jobs/{job_id}"
    paths = {
        "input_paths": [f"{folder}/input/holiday-0001.jpg"],
        "output_paths": [f"{folder}/output/resized_holiday-0001.jpg"],
    }
    return Job(
        job_id=job_id, task_type="image_resize", params={**paths, "width": 800, "height": 600, "fit": "exact"}
    )


def add_finished(store: RedisJobStore, numbers: range) -> None:
    for number in numbers:
        job = job_of(str(uuid.UUID(int=number)))
        store.add(job, created_by=CREATORS[number % 3], priority=number % 11)
        store.claim(job.job_id, token="t", owner=Owner("n", 1), sequence=0, lease_seconds=3600)
        output = {"processed_files": job.params["output_paths"], "dimensions": [800, 600]}
        store.finish(job.job_id, token="t", outcome=Outcome(JobStatus.COMPLETED, task_output=output))


def acts(repository: CeleryJobRepository) -> dict[str, Callable[[], object]]:
    """What is measured. Each is done again and again."""
    store = repository.store
    recovery = RedisRecovery(
        store, lease_seconds=3600, max_leases_lost=10, lost_message_seconds=3600, retention_days=30
    )

    def submit() -> None:
        # Removed behind itself, so that it is the finished ones that grow in number.
        job_id = str(uuid.uuid4())
        store.add(job_of(job_id), created_by="ann", submission=Submission(job_id, "f"))
        store.delete(job_id)

    return {
        "get": lambda: repository.get_job(str(uuid.UUID(int=50))),
        "list all": lambda: repository.find_jobs(JobQuery(of_anybody=True)),
        "list one's own": lambda: repository.find_jobs(JobQuery(created_by="ann", limit=20)),
        "list by status": lambda: repository.find_jobs(
            JobQuery(of_anybody=True, status=JobStatus.COMPLETED, limit=20)
        ),
        "list by a rare type": lambda: repository.find_jobs(JobQuery(of_anybody=True, task_type="rare")),
        "list what runs": lambda: repository.find_jobs(
            JobQuery(of_anybody=True, status=JobStatus.PROCESSING)
        ),
        "submit": submit,
        "count unfinished": lambda: repository.count_unfinished("ann"),
        "who serves": repository.service,
        "recovery": lambda: recover(recovery, lambda _: True),
    }


def server_cost(store: RedisJobStore, act: Callable[[], object]) -> tuple[int, float]:
    """How many commands an act makes the server do, and for how many microseconds, by its own count; medians."""
    calls, times = [], []
    for _ in range(ROUNDS):
        store.client.config_resetstat()
        act()
        stats = store.client.info("commandstats")
        ours = {name: one for name, one in stats.items() if "config" not in name and "info" not in name}
        calls.append(sum(one["calls"] for one in ours.values()))
        # A script's time has its commands' in it.
        scripts = [one for name, one in ours.items() if name in ("cmdstat_evalsha", "cmdstat_eval")]
        times.append(sum(one["usec"] for one in scripts or ours.values()))
    return statistics.median_low(calls), statistics.median(times)


def http_cost(url: str) -> dict[str, float]:
    """Milliseconds of requests, medians."""
    job_id = uuid.UUID(int=50)  # nobody's
    size, file = {"width": "3", "height": "3"}, {"file": ("a.png", b"x")}
    with httpx2.Client(base_url=f"{url}/api", timeout=60) as client:
        requests: dict[str, Callable[[], httpx2.Response]] = {
            "GET /jobs/ID": lambda: client.get(f"/jobs/{job_id}"),
            "GET /jobs": lambda: client.get("/jobs?limit=20"),
            "POST /jobs/image_resize": lambda: client.post("/jobs/image_resize", data=size, files=file),
        }
        medians = {}
        for name, request in requests.items():
            times = []
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                answer = request()
                times.append((time.perf_counter() - begin) * 1000)
                assert answer.status_code == 200
                if "ID" not in name and answer.json().get("job_id"):
                    client.delete(f"/jobs/{answer.json()['job_id']}")
            medians[name] = statistics.median(times)
    return medians


def measured(repository: CeleryJobRepository) -> dict[str, tuple[int, float]]:
    return {name: server_cost(repository.store, act) for name, act in acts(repository).items()}


def test_no_act_needs_more_commands_when_more_jobs_have_finished(repository: CeleryJobRepository) -> None:
    add_finished(repository.store, range(FEW))
    few = measured(repository)
    add_finished(repository.store, range(FEW, 2_000))
    many = measured(repository)
    assert {name: calls for name, (calls, _) in many.items()} == {
        name: calls for name, (calls, _) in few.items()
    }


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_with_100_000_finished_jobs_all_is_as_fast_as_with_100(
    environment: Environment, start_master: Callable[..., Process], repository: CeleryJobRepository
) -> None:
    assert Settings.from_environment(environment.variables).retention_days == 30
    store, master = repository.store, start_master()
    add_finished(store, range(FEW))
    few, few_http = measured(repository), http_cost(master.url)
    before = int(store.client.info("memory")["used_memory"])
    add_finished(store, range(FEW, 100_000))
    grown = int(store.client.info("memory")["used_memory"]) - before
    many, many_http = measured(repository), http_cost(master.url)
    assert len(store.client.zrange(store.keys("finished"), 0, -1)) >= 100_000
    for name, (calls, usec) in many.items():
        print(f"{name}: {few[name][0]} commands, {few[name][1]:.0f} us; with 100,000: {calls}, {usec:.0f} us")
    for name, milliseconds in many_http.items():
        print(f"{name}: {few_http[name]:.1f} ms; with 100,000: {milliseconds:.1f} ms")
    per_job = grown / (100_000 - FEW)
    print(f"{per_job:.0f} bytes a job, with the events of the last ones")
    for name, (calls, usec) in many.items():
        assert calls == few[name][0], name
        assert usec <= 2 * few[name][1] + 20, name
    for name, milliseconds in many_http.items():
        assert milliseconds <= 2 * few_http[name], name
    assert per_job < 3000
