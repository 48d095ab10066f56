"""The API against its own description: every answer as documented, and never a 5xx."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from harness import Process
from job_http import add, claim, complete

from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore


def test_every_operation_says_what_it_answers(start_master: Callable[..., Process]) -> None:
    url = start_master().wait_for("Uvicorn running").url
    for path, methods in httpx2.get(f"{url}/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            good = [status for status in operation["responses"] if int(status) < 300]
            assert good, where
            for status, described in operation["responses"].items():
                if int(status) >= 400 and not path.startswith("/api/health"):
                    assert list(described["content"]) == ["application/problem+json"], f"{where} {status}"


@pytest.mark.timeout(300)
def test_a_fuzzer_finds_no_answer_that_is_not_documented(
    start_master: Callable[..., Process], store: RedisJobStore, tmp_path: Path
) -> None:
    pytest.importorskip("schemathesis")
    master = start_master().wait_for("Uvicorn running")
    storage = LocalFileStorage(tmp_path / "media")
    for job_id in ("0", "a", "done"):
        add(store, job_id)
    claim(store, "a")
    complete(store, storage, "done", cat_png=b"x")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{master.url}/openapi.json"),
        *("--checks", checks, "--max-examples", os.environ.get("FUZZ_EXAMPLES", "25")),
        # Streams without an end are followed by tests of their own; readiness without a worker is a 503.
        *("--exclude-path-regex", "events|health/ready", "--request-timeout", "70"),
        *("--phases", "examples,coverage,fuzzing", "--max-time", "60", "--seed", "1", "--no-color"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Traceback" not in master.output
