"""The thread that keeps leases goes on whatever happens: all jobs of the node depend on it."""

from types import SimpleNamespace
from typing import Any

import pytest

from cl_ml_tools.celery_bridge import keeper
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore


@pytest.mark.parametrize("part", ["_pause_to_next_end", "go_on_ending", "end_overdue", "extend_running"])
def test_a_fault_in_any_part_of_it_is_logged_and_does_not_end_it(
    part: str, store: RedisJobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.01)
    installation: Any = SimpleNamespace(
        store=store, node="here", settings=Settings(lease_seconds=1), attendant=None
    )
    kept = keeper.Keeper(installation)
    really, calls = getattr(kept, part), []

    def fail_first() -> Any:
        calls.append(part)
        if len(calls) == 1:
            raise ValueError("min() arg is an empty sequence")
        if len(calls) == 3:
            raise SystemExit
        return really()

    monkeypatch.setattr(kept, part, fail_first)
    with pytest.raises(SystemExit):
        kept._loop()
    assert "the keeper failed" in caplog.text
    assert "empty sequence" in caplog.text
