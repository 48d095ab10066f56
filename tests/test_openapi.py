"""The API against its own description: every answer as documented, and never a 5xx."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from harness import Process, wait_until
from job_http import add, claim, complete

from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore

TOKEN = f"ann:{hashlib.sha256(b'secret').hexdigest()}"
CHECKS = [
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance", "ignored_auth"),
]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))

ENDLESS = "/api/jobs/events"
"""Followed by tests of its own: no fuzzer waits for its end."""


def operations_of(document: dict[str, dict[str, dict[str, object]]]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


@pytest.mark.parametrize("tokens", ["", TOKEN], ids=["open", "tokens"])
def test_every_operation_says_what_it_answers(start_master: Callable[..., Process], tokens: str) -> None:
    url = start_master(CL_ML_TOOLS_API_TOKENS=tokens).wait_for("Uvicorn running").url
    for path, methods in httpx2.get(f"{url}/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            good = [status for status in operation["responses"] if int(status) < 300]
            assert good, where
            for status, described in operation["responses"].items():
                if int(status) >= 400 and not path.startswith("/api/health"):
                    assert list(described["content"]) == ["application/problem+json"], f"{where} {status}"
            is_open = not tokens or path.startswith("/api/health")
            assert ("401" in operation["responses"]) is not is_open, where


def answers(log: str, document: dict[str, dict[str, dict[str, object]]]) -> dict[tuple[str, str], set[int]]:
    """By operation the statuses that the server's log tells of."""
    seen: dict[tuple[str, str], set[int]] = {operation: set() for operation in operations_of(document)}
    # What has no parameter in it comes first: `jobs/events` is no job.
    patterns = {
        path: re.compile(re.escape(path).replace(r"\{name\}", ".+").replace(r"\{job_id\}", "[^/]*"))
        for path in sorted(document["paths"], key=lambda path: (path.count("{"), -len(path)))
    }
    for method, target, status in re.findall(r'"(\w+) (\S+) HTTP/1.1" (\d+)', log):
        for path, pattern in patterns.items():
            if pattern.fullmatch(target.partition("?")[0]):
                if (method, path) in seen:
                    seen[method, path].add(int(status))
                break
    return seen


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("tokens", "header", "examples"),
    [("", "", EXAMPLES), (TOKEN, "Authorization: Bearer secret", EXAMPLES), (TOKEN, "", 3)],
    ids=["open", "with a token", "without one"],
)
def test_a_fuzzer_finds_no_answer_that_is_not_documented(
    tokens: str,
    header: str,
    examples: int,
    start_master: Callable[..., Process],
    start_worker: Callable[..., Process],
    store: RedisJobStore,
    tmp_path: Path,
) -> None:
    pytest.importorskip("schemathesis")
    master = start_master(CL_ML_TOOLS_API_TOKENS=tokens).wait_for("Uvicorn running")
    # Without one the service is rightly not ready. It does what the fuzzer submits.
    start_worker("-c", "1")
    storage = LocalFileStorage(tmp_path / "media")
    creator = "ann" if tokens else None
    add(store, "a", created_by=creator)
    claim(store, "a")
    store.cancel("a")
    for job_id in ("0", "done"):
        add(store, job_id, created_by=creator)
        complete(store, storage, job_id, cat_png=b"x")
    wait_until(lambda: httpx2.get(f"{master.url}/api/health/ready").is_success)
    before = len(master.output)
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{master.url}/openapi.json"),
        *("--checks", ",".join(CHECKS), "--max-examples", str(examples), "--exclude-path", ENDLESS),
        *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color", "--request-timeout", "70"),
        *(("--header", header) if header else ()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=380, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Traceback" not in master.output
    document = httpx2.get(f"{master.url}/openapi.json").json()
    seen = answers(master.output[before:], document)
    assert {operation for operation, statuses in seen.items() if not statuses} <= {("GET", ENDLESS)}
    assert max(status for statuses in seen.values() for status in statuses) < 500
    if tokens and not header:
        closed = {operation for operation in seen if not operation[1].startswith("/api/health")}
        assert all(seen[operation] <= {401} for operation in closed), seen
