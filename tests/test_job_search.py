"""Finding jobs: filters, pages, and what they cost."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from job_http import ADMIN, add, claim, end, job_client

from cl_ml_tools.common.job_control import JobCursor, JobQuery
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.stores import redis_search
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_search import find_jobs


@pytest.fixture
def client(store: RedisJobStore) -> Iterator[TestClient]:
    with job_client(store) as client:
        yield client


def at(store: RedisJobStore, ms: int) -> None:
    """Let the store's clock stand at ``ms`` or a little later."""
    seconds, microseconds = store.client.time()
    offset = ms - (seconds * 1000 + microseconds // 1000)
    store.client.hset(store.keys("meta"), "time_offset_ms", offset)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()["jobs"]]


def all_pages(client: TestClient, query: str = "", **headers: str) -> list[list[str]]:
    answer = client.get(f"/jobs?{query}", headers=headers)
    pages = [ids(answer)]
    while cursor := answer.json()["next"]:
        answer = client.get(f"/jobs?{query}&cursor={cursor}", headers=headers)
        pages.append(ids(answer))
    return pages


def test_jobs_are_listed_newest_first(client: TestClient, store: RedisJobStore) -> None:
    for number in range(3):
        at(store, 1_800_000_000_000 + 1000 * number)
        add(store, f"job-{number}")
    assert ids(client.get("/jobs")) == ["job-2", "job-1", "job-0"]
    assert client.get("/jobs").json()["next"] is None


def test_jobs_are_found_by_status_type_and_time(client: TestClient, store: RedisJobStore) -> None:
    for number, task_type in enumerate(["resize", "convert", "resize", "convert"]):
        at(store, 1_800_000_000_000 + 10_000 * number)
        add(store, f"job-{number}", task_type=task_type)
    claim(store, "job-0")
    end(store, "job-1")
    end(store, "job-2", JobStatus.ERROR)
    assert ids(client.get("/jobs?status=queued")) == ["job-3"]
    assert ids(client.get("/jobs?status=error&task_type=resize")) == ["job-2"]
    assert ids(client.get("/jobs?status=error&task_type=convert")) == []
    assert ids(client.get("/jobs?task_type=resize")) == ["job-2", "job-0"]
    created = {job["job_id"]: job["created_at"] for job in client.get("/jobs").json()["jobs"]}
    newer = f"created_from={created['job-1']}&created_before={created['job-3']}"
    assert ids(client.get(f"/jobs?{newer}")) == ["job-2", "job-1"]


def test_pages_stay_right_while_jobs_arrive_and_go(client: TestClient, store: RedisJobStore) -> None:
    for number in range(10):
        at(store, 1_800_000_000_000 + 1000 * number)
        add(store, f"job-{number}")
    first = client.get("/jobs?limit=4")
    add(store, "newcomer")
    store.delete("job-6")  # the last of the first page
    store.delete("job-4")
    second = client.get(f"/jobs?limit=4&cursor={first.json()['next']}")
    third = client.get(f"/jobs?limit=4&cursor={second.json()['next']}")
    assert [ids(page) for page in (first, second, third)] == [
        ["job-9", "job-8", "job-7", "job-6"],
        ["job-5", "job-3", "job-2", "job-1"],
        ["job-0"],
    ]


def test_jobs_of_one_millisecond_are_neither_skipped_nor_doubled(
    client: TestClient, store: RedisJobStore
) -> None:
    names = [f"{letter}-{number}" for letter in "aZ_" for number in range(5)]
    for name in names:
        add(store, name)
        store.client.hset(store.keys("job", name), "created_at", "1800000000000")
        for key in ("jobs", "status"):
            store.client.zadd(store.keys(key, "" if key == "jobs" else "queued"), {name: 1800000000000})
    for limit in (1, 2, 7, 15, 50):
        for query in (f"limit={limit}", f"limit={limit}&status=queued"):
            pages = all_pages(client, query)
            assert [name for page in pages for name in page] == sorted(names, key=str.encode, reverse=True)
            assert len(pages) == -(-15 // limit)


def test_a_search_goes_on_through_many_that_do_not_match(
    client: TestClient, store: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(25):
        at(store, 1_800_000_000_000 + 1000 * number)
        add(store, f"job-{number:02}", created_by=None if number in (0, 12) else "bob")
    monkeypatch.setattr(redis_search, "SCANNED_AT_ONCE", 4)
    assert all_pages(client, "task_type=probe") == [["job-12", "job-00"]]
    monkeypatch.setattr(redis_search, "MAX_ROUNDS", 2)
    pages = all_pages(client, "task_type=probe")
    assert [name for page in pages for name in page] == ["job-12", "job-00"]
    assert len(pages) == 4


def test_a_search_looks_at_no_jobs_of_another_kind(
    client: TestClient, store: RedisJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        add(store, f"common-{number}", task_type="common")
    for number in range(3):
        add(store, f"rare-{number}", task_type="rare")
    end(store, "rare-1")
    monkeypatch.setattr(redis_search, "SCANNED_AT_ONCE", 4)
    monkeypatch.setattr(redis_search, "MAX_ROUNDS", 1)
    for query, found in (("task_type=rare", 3), ("status=completed", 1), ("task_type=rare&status=queued", 2)):
        assert [len(page) for page in all_pages(client, query)] == [found]
    store.delete("rare-1")
    assert sorted(store.client.zrange(store.keys("type", "rare"), 0, -1)) == ["rare-0", "rare-2"]


def test_everybody_finds_their_own_jobs_and_an_admin_all(client: TestClient, store: RedisJobStore) -> None:
    for creator in ("ann", "bob", None):
        add(store, f"of-{creator}", created_by=creator)
        add(store, f"too-{creator}", created_by=creator)
        end(store, f"too-{creator}")
    for user in ("ann", "bob"):
        mine = [page for pages in all_pages(client, "limit=1", **{"X-User": user}) for page in pages]
        assert set(mine) == {f"of-{user}", f"too-{user}"}
        assert ids(client.get("/jobs?status=completed", headers={"X-User": user})) == [f"too-{user}"]
    assert set(ids(client.get("/jobs"))) == {"of-None", "too-None"}
    assert len(ids(client.get("/jobs", headers={"X-User": ADMIN}))) == 6
    assert ids(client.get("/jobs", headers={"X-User": "carl"})) == []


def test_a_job_that_is_deleted_while_it_runs_is_not_found(client: TestClient, store: RedisJobStore) -> None:
    add(store, "a")
    claim(store, "a")
    store.delete("a")
    assert ids(client.get("/jobs")) == ids(client.get("/jobs?status=processing")) == []


@pytest.mark.parametrize(
    "query",
    ["status=done", "limit=0", "limit=201", "cursor=x", "cursor=1.a%0a", "created_from=-1", "limit=x"],
)
def test_a_search_that_makes_no_sense_is_refused(client: TestClient, query: str) -> None:
    answer = client.get(f"/jobs?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


def test_a_page_taken_while_jobs_pour_in_has_each_older_job_once(store: RedisJobStore) -> None:
    for number in range(60):
        add(store, f"old-{number:02}")
    stop = threading.Event()

    def pour() -> None:
        with RedisJobStore(store.url) as other:
            number = 0
            while not stop.is_set():
                add(other, f"new-{number}")
                number += 1

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        seen: list[str] = []
        after: JobCursor | None = None
        while True:
            page = find_jobs(store.scripts, JobQuery(limit=7, after=after))
            seen += [job.job_id for job in page.jobs]
            after = page.next
            if after is None:
                break
    finally:
        stop.set()
        thread.join()
    old = [name for name in seen if name.startswith("old")]
    assert len(old) == len(set(old)) == 60
    assert len(seen) == len(set(seen))
