"""The note of a run that waits for the store."""

from pathlib import Path

import pytest

from cl_ml_tools.celery_bridge.spool import OutcomeSpool
from cl_ml_tools.common.job_leases import Claim, Outcome
from cl_ml_tools.common.schemas import JobRecord, JobStatus

CLAIM = Claim(JobRecord(job_id="a", task_type="t", params={}, created_at=1, event_id="1-0"), "0123")
OUTCOME = Outcome(JobStatus.COMPLETED, task_output={"n": 1})


def test_what_was_put_is_there_until_it_is_removed(tmp_path: Path) -> None:
    spool = OutcomeSpool(tmp_path / "spool")
    spool.put(CLAIM, None)
    assert spool.get("a") == ("0123", None)
    spool.put(CLAIM, OUTCOME)
    assert spool.get("a") == ("0123", OUTCOME)
    spool.remove("a")
    assert spool.get("a") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("times", [1, 3])
def test_a_directory_that_another_process_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    spool, mkdir, left = OutcomeSpool(tmp_path / "spool"), Path.mkdir, [None] * times

    def made_and_removed(
        path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False
    ) -> None:
        mkdir(path, mode, parents, exist_ok)
        if left:
            left.pop()
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", made_and_removed)
    spool.put(CLAIM, OUTCOME)
    assert spool.get("a") == ("0123", OUTCOME)


def test_a_note_that_cannot_be_written_is_logged_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = OutcomeSpool(tmp_path / "gone" / "spool")
    spool.put(CLAIM, OUTCOME)
    assert "job a waits for the store, which cannot be noted" in caplog.text
    spool.remove("a")
