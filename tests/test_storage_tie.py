"""A record of jobs and the storage of their files know each other."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import Environment, Process, ended

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.errors import StorageMismatchError
from cl_ml_tools.storage_tie import check_storage
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore

Submit = Callable[..., str]


def test_the_first_storage_is_the_records_wherever_it_is_seen_from(
    store: RedisJobStore, tmp_path: Path
) -> None:
    assert check_storage(LocalFileStorage(tmp_path / "media"), store) == ""
    (tmp_path / "mounted-here").symlink_to(tmp_path / "media")
    assert check_storage(LocalFileStorage(tmp_path / "mounted-here"), store) == ""
    assert [path.name for path in (tmp_path / "media").iterdir()] == [".record"]


def test_a_storage_without_the_mark_is_a_share_that_is_not_mounted(
    store: RedisJobStore, tmp_path: Path
) -> None:
    check_storage(LocalFileStorage(tmp_path / "media"), store)
    empty = LocalFileStorage(tmp_path / "empty")
    with pytest.raises(StorageMismatchError, match="Is the share mounted") as caught:
        check_storage(empty, store)
    assert not empty.record_mark.exists()
    identity, _, mark = str(caught.value).rsplit("echo ", 1)[1].partition(" > ")
    Path(mark).write_text(f"{identity}\n")
    assert check_storage(empty, store) == "", "as the message says"


def test_a_storage_of_another_record_is_refused_by_one_that_has_its_own(
    store: RedisJobStore, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    storages = [LocalFileStorage(tmp_path / name) for name in ("one", "another")]
    with RedisJobStore(redis_server.redis_url, prefix="another") as another:
        for storage, record in zip(storages, (store, another), strict=True):
            assert check_storage(storage, record) == ""
        with pytest.raises(StorageMismatchError, match="is not the storage"):
            check_storage(storages[0], another)


def test_a_new_record_may_work_beside_the_files_of_another_and_is_told(
    store: RedisJobStore, tmp_path: Path
) -> None:
    """Redis was emptied: what comes now shall be done, and what was done shall stay."""
    storage = LocalFileStorage(tmp_path)
    check_storage(storage, store)
    store.client.flushall()
    for _ in range(2):
        assert "belong to another record" in check_storage(storage, store)


def test_a_storage_that_cannot_be_used_is_told_with_its_setting(store: RedisJobStore, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path / "media")
    check_storage(storage, store)
    (tmp_path / "media").rename(tmp_path / "gone")
    with pytest.raises(
        StorageMismatchError, match=r"cannot be used by this process.*CL_ML_TOOLS_STORAGE_DIR"
    ):
        check_storage(storage, store)


def test_of_two_records_that_meet_a_storage_first_one_gets_it(
    store: RedisJobStore, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    gate = threading.Barrier(4)

    def check(record: RedisJobStore) -> str:
        gate.wait(10)
        return check_storage(LocalFileStorage(tmp_path), record)

    with RedisJobStore(redis_server.redis_url, prefix="another") as another, ThreadPoolExecutor(4) as pool:
        told = list(pool.map(check, [store, another, store, another]))
    assert told[0] == told[2]
    assert told[1] == told[3]
    assert sorted(map(bool, told[:2])) == [False, True]


@pytest.mark.parametrize("kind", ["worker", "master"])
def test_a_process_that_has_not_the_storage_of_the_others_says_so_at_its_start(
    kind: str, environment: Environment, start_worker: Callable[..., Process], tmp_path: Path
) -> None:
    start_worker("-c", "1")
    wrong = {"CL_ML_TOOLS_STORAGE_DIR": str(tmp_path / "not-mounted")}
    process = environment.worker("-c", "1", **wrong) if kind == "worker" else environment.master(**wrong)
    try:
        process.wait_for("is not the storage that the files of these jobs are in")
        process.wait_for("Uvicorn running" if kind == "master" else " ready.")
    finally:
        process.kill_group()


def test_a_job_that_fails_where_the_storage_is_gone_is_left_to_other_nodes(
    start_worker: Callable[..., Process],
    submit: Submit,
    repository: CeleryJobRepository,
    environment: Environment,
) -> None:
    storage = Path(environment.variables["CL_ML_TOOLS_STORAGE_DIR"])
    worker = start_worker("-c", "1")
    source = storage / "a.txt"
    source.touch()
    storage.rename(storage.with_name("unmounted"))
    storage.mkdir()
    needs_no_file = submit(["fail", "a bug"])
    assert ended(repository, needs_no_file).status == "error", "as ever"
    job_id = submit(["fail", "no such file"], input_paths=[str(source)])
    worker.wait_for(f"job {job_id}: this node cannot do it, and gives it back")
    job = repository.get_job(job_id)
    assert job is not None
    assert job.status == "processing", "held, so that it does not come back at once"
    storage.rmdir()
    storage.with_name("unmounted").rename(storage)
    job = ended(repository, job_id)
    assert (job.status, job.error_message) == ("error", "RuntimeError: no such file")
    assert (job.attempt, job.failures, job.crashes) == (2, 0, 0)
