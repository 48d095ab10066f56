"""The sweep over files that belong to no job any more."""

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cl_ml_tools.common.job_leases import Claim, Outcome, Owner
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.stores import _incoming
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.sweep import MIN_AGE_SECONDS, sweep


def make_old(*paths: Path) -> None:
    then = time.time() - MIN_AGE_SECONDS - 60
    for path in paths:
        os.utime(path, (then, then), follow_symlinks=False)


def make_job(storage: LocalFileStorage, store: RedisJobStore | None, job_id: str) -> Path:
    directory = storage.create_job_directory(job_id)
    (directory / "input" / "a.png").write_bytes(b"a")
    if store is not None:
        store.add(Job(job_id=job_id, task_type="probe", params={}))
    make_old(directory)
    return directory


def end(store: RedisJobStore, job_id: str) -> None:
    claim = store.claim(job_id, token="t", owner=Owner("n", 1), sequence=1, lease_seconds=30)
    assert isinstance(claim, Claim)
    store.finish(job_id, token="t", outcome=Outcome(JobStatus.ERROR))


def test_files_without_a_record_go_after_an_hour(store: RedisJobStore, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path)
    orphan = make_job(storage, None, "orphan")
    young = storage.create_job_directory("young")
    owned = make_job(storage, store, "owned")
    assert sum(sweep(storage, store)) == 1
    assert [path.exists() for path in (orphan, young, owned)] == [False, True, True]


def test_a_redis_that_was_emptied_costs_no_file(
    store: RedisJobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its jobs have no record any more, although somebody may have their results."""
    storage = LocalFileStorage(tmp_path)
    owned = make_job(storage, store, "owned")
    assert sum(sweep(storage, store)) == 0
    store.client.flushall()
    assert sum(sweep(storage, store)) == 0
    assert owned.exists()
    (told,) = caplog.messages
    (remedy,) = re.findall(r"echo \w+ > \S+$", told)
    subprocess.run(remedy, shell=True, check=True)
    assert sum(sweep(storage, store)) == 1, "as the message says"


def test_a_storage_that_is_another_one_is_left_alone(
    store: RedisJobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert sum(sweep(LocalFileStorage(tmp_path / "media"), store)) == 0
    storage = LocalFileStorage(tmp_path / "another")
    orphan = make_job(storage, None, "orphan")
    assert sum(sweep(storage, store)) == 0
    assert orphan.exists()
    assert "is not the storage" in caplog.text


def test_leftovers_of_an_ended_job_go_and_its_files_stay(store: RedisJobStore, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path)
    directory = make_job(storage, store, "ended")
    result = directory / "output" / "a.png"
    result.write_bytes(b"a")
    attempt = directory / "output" / ".attempt-abc"
    attempt.mkdir()
    (attempt / "half.png").write_bytes(b"h")
    partial = directory / ".incoming-abc"
    partial.write_bytes(b"p")
    make_old(attempt, partial, directory)
    end(store, "ended")
    assert sum(sweep(storage, store)) == 2
    assert result.exists()
    assert not attempt.exists()
    assert not partial.exists()


def test_an_attempt_of_a_running_job_is_left_alone(store: RedisJobStore, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path)
    directory = make_job(storage, store, "running")
    attempt = directory / "output" / ".attempt-abc"
    attempt.mkdir()
    make_old(attempt, directory)
    claim = store.claim("running", token="t", owner=Owner("n", 1), sequence=1, lease_seconds=30)
    assert isinstance(claim, Claim)
    assert sum(sweep(storage, store)) == 0
    # Also when it is deleted and has not stopped yet: its record is hidden, not gone.
    assert store.delete("running")
    assert sum(sweep(storage, store)) == 0
    assert attempt.exists()


def test_what_a_killed_cleanup_has_left_goes(store: RedisJobStore, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path)
    doomed = tmp_path / "jobs" / ".removing-abc"
    doomed.mkdir(parents=True)
    make_old(doomed)
    assert sum(sweep(storage, store)) == 1
    assert not doomed.exists()


def test_a_leftover_that_is_a_link_goes_and_what_it_leads_to_stays(
    store: RedisJobStore, tmp_path: Path
) -> None:
    storage = LocalFileStorage(tmp_path / "media")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "media" / "jobs" / ".removing-abc"
    link.parent.mkdir()
    link.symlink_to(elsewhere)
    make_old(link)
    assert sum(sweep(storage, store)) == 1
    assert elsewhere.is_dir()
    assert not link.is_symlink()


def test_a_leftover_that_cannot_be_removed_does_not_keep_the_sweep_from_the_rest(
    store: RedisJobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = LocalFileStorage(tmp_path)
    doomed = tmp_path / "jobs" / ".removing-abc"
    doomed.mkdir(parents=True)
    make_old(doomed)
    orphan = make_job(storage, None, "orphan")
    remove = shutil.rmtree

    def rmtree(path: Path) -> None:
        if path == doomed:
            raise PermissionError(f"not allowed: {path}")
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert sum(sweep(storage, store)) == 1
    assert not orphan.exists()
    assert "not allowed" in caplog.text


def test_an_upload_that_has_gone_on_for_hours_is_left_alone(
    store: RedisJobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_incoming, "TOUCH_SECONDS", 0.0)
    storage = LocalFileStorage(tmp_path)

    class SlowFile:
        chunks = iter([b"a", b"b", b""])

        async def read(self, size: int) -> bytes:
            chunk = next(self.chunks)
            if chunk == b"b":
                make_old(tmp_path / "jobs" / "slow")
            if chunk == b"":
                assert sum(sweep(storage, store)) == 0
            return chunk

    saved = asyncio.run(storage.save_input_file("slow", "a.png", SlowFile()))
    assert Path(saved["path"]).read_bytes() == b"ab"


def test_a_pass_goes_on_in_steps_over_many_jobs(store: RedisJobStore, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path)
    for number in range(250):
        make_job(storage, None, f"orphan-{number}")
    steps = list(sweep(storage, store))
    assert sum(steps) == 250
    assert max(steps) <= 100


def test_a_turn_is_taken_by_one_caller(store: RedisJobStore) -> None:
    ask: Callable[[], bool] = lambda: store.claim_turn("sweep", 60)  # noqa: E731
    assert [ask(), ask()] == [True, False]
