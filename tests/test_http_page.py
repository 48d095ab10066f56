"""docs/http.md says what is so: its requests are made, its answers compared, its tables read."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from doc_blocks import Request, blocks_of, commands_of, request_of, write_files
from harness import ROOT, Process
from PIL import Image

from cl_ml_tools.app import create_app
from cl_ml_tools.settings import Settings
from cl_ml_tools.web.errors import ERROR_RESPONSES

PAGE = ROOT / "docs" / "http.md"
TEXT = PAGE.read_text()


def test_the_page_has_every_endpoint_and_no_other() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    uploads = {("POST", f"/api/jobs/{entry}") for _, path in there if (entry := plugin_of(path))}
    told = set(re.findall(r"^\| `(GET|POST|DELETE) (\S+)` \|", TEXT, flags=re.MULTILINE))
    assert told == (there - uploads) | {("POST", "/api/jobs/{task_type}")}


def plugin_of(path: str) -> str:
    found = re.fullmatch(r"/api/jobs/(\w+)", path)
    return found[1] if found and found[1] != "events" else ""


def test_the_page_names_every_status_that_a_refusal_has() -> None:
    paths = create_app(Settings()).openapi()["paths"]
    told = set(re.findall(r"^\| (\d{3}) \|", TEXT, flags=re.MULTILINE))
    documented = {
        status
        for methods in paths.values()
        for operation in methods.values()
        for status in operation["responses"]
        if int(status) >= 400
    }
    assert told == documented | {"401"}, "which is documented when there are tokens"
    assert {str(status) for status in ERROR_RESPONSES} <= told


@pytest.fixture
def service(
    start_master: Callable[..., Process], start_worker: Callable[..., Process], tmp_path: Path
) -> Process:
    Image.new("RGB", (1200, 900), "teal").save(tmp_path / "photo.jpg")
    start_worker("-c", "1")
    return start_master()


def test_the_requests_of_the_page_are_answered_as_it_shows(service: Process, tmp_path: Path) -> None:
    """In their order. The first job that is accepted is the page's 4b4c..., the last one its 7d1e...."""
    jobs: list[str] = []
    answer: Any = None
    asked = compared = 0
    for block in blocks_of(PAGE):
        if block.language == "json":
            shown = json.loads(block.text)
            if "title" in shown:
                answer = httpx2.get(f"{service.url}/api/jobs/x", timeout=60).json()
                assert shown == answer
            elif "params" not in shown and "progress" in shown:
                answer = event_of(answer)
            elif "params" in shown:
                assert {"input_paths", "output_paths"} <= set(shown["params"])
                described = httpx2.get(f"{service.url}/openapi.json", timeout=60).json()["components"][
                    "schemas"
                ]
                assert differences(described["JobView"]["examples"][0], answer) == []
            assert differences(shown, answer) == [], str(block)
            assert isinstance(answer, list) or set(shown) == set(answer), str(block)
            compared += 1
        if block.language != "bash":
            continue
        for command in commands_of(block):
            if not command.startswith("curl") or "$TOKEN" in command:
                # Tokens are tried in test_service_routes.py.
                continue
            if jobs:
                command = command.replace("4b4c...", jobs[0]).replace("7d1e...", jobs[-1])
            done = ask(service.url, request_of(command), tmp_path)
            # The page's last job may have ended before it is cancelled.
            assert done.is_success or (done.status_code == 409 and "-X POST" in command), (
                f"{block}: {command}: {done.text}"
            )
            answer = done.text
            if done.content and done.headers.get("content-type") == "application/json":
                answer = done.json()
                if isinstance(answer, dict) and "served" in answer:
                    jobs.append(answer["job_id"])
            asked += 1
    assert (len(jobs), asked, compared) == (3, 16, 5)


def ask(url: str, request: Request, folder: Path) -> httpx2.Response:
    fields = {name: value for name, value in request.form if not value.startswith("@")}
    files = [
        (name, (value[1:], (folder / value[1:]).read_bytes()))
        for name, value in request.form
        if value.startswith("@")
    ]
    return httpx2.request(
        request.method,
        url + request.path,
        headers=request.headers,
        data=fields or None,
        files=files or None,
        timeout=60,
    )


def event_of(stream: str) -> Any:
    (data,) = re.findall(r"^data: (.+)$", stream, flags=re.MULTILINE)
    return json.loads(data)


def differences(shown: Any, answer: Any, place: str = "") -> list[str]:
    """Where the answer has not what is shown: a name, or a value of that type.

    Null is of any type, and of a list the first entry counts.
    """
    if isinstance(shown, dict) and isinstance(answer, dict):
        missing = [f"{place}.{name} is missing" for name in sorted(shown.keys() - answer.keys())]
        there = sorted(shown.keys() & answer.keys())
        return missing + [
            told for name in there for told in differences(shown[name], answer[name], f"{place}.{name}")
        ]
    if isinstance(shown, list) and isinstance(answer, list):
        return differences(shown[0], answer[0], f"{place}[]") if shown and answer else []
    return [] if None in (shown, answer) or type(shown) is type(answer) else [f"{place} is {answer!r}"]


def test_the_client_of_the_page_repeats_a_field_for_a_list(
    service: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(PAGE, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from media_client import MediaClient  # type: ignore[import-not-found]

    client = MediaClient(service.url)
    job_id = client.upload("image_thumbnail", tmp_path / "photo.jpg", sizes=[32, 16], priority=7)
    job = json.load(client.ask("GET", f"/jobs/{job_id}?wait=30"))
    assert (job["params"]["sizes"], job["priority"], len(job["outputs"])) == ([32, 16], 7, 2)


def test_the_client_of_the_page_uploads_follows_and_downloads(service: Process, tmp_path: Path) -> None:
    (script,) = write_files(PAGE, tmp_path)
    done = subprocess.run(
        [sys.executable, script.name, service.url, "photo.jpg"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "completed 100" in done.stdout
    assert done.stdout.split()[-1] == "resized_photo.jpg"
    with Image.open(tmp_path / "resized_photo.jpg") as image:
        assert image.size == (80, 60)
