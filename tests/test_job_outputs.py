"""What jobs have made, over HTTP."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from job_http import add, claim, complete, job_client

from cl_ml_tools.output_files import find_output, list_outputs, zip_chunks
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore

PAGE = b"<script>alert(document.domain)</script>"


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path / "media")


@pytest.fixture
def client(store: RedisJobStore, storage: LocalFileStorage) -> Iterator[TestClient]:
    with job_client(store, storage) as client:
        add(store, "a")
        yield client


@pytest.fixture
def completed(client: TestClient, store: RedisJobStore, storage: LocalFileStorage) -> Path:
    """A job with a picture, a page, and a file in a folder."""
    folder = complete(store, storage, "a", cat_png=b"0123456789", page_html=PAGE)
    (folder / "parts").mkdir()
    (folder / "parts" / "one.bin").write_bytes(b"")
    return folder


def test_outputs_are_listed_with_size_type_and_hash(client: TestClient, completed: Path) -> None:
    listed = client.get("/jobs/a/outputs").json()
    assert listed[0] == {
        "name": "cat.png",
        "size": 10,
        "media_type": "image/png",
        "sha256": hashlib.sha256(b"0123456789").hexdigest(),
    }
    assert [file["name"] for file in listed] == ["cat.png", "page.html", "parts/one.bin"]
    assert [file["name"] for file in client.get("/jobs/a").json()["outputs"]] == [
        file["name"] for file in listed
    ]


def test_an_output_is_downloaded_with_its_hash_as_etag(client: TestClient, completed: Path) -> None:
    answer = client.get("/jobs/a/outputs/cat.png")
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == "10"
    assert answer.headers["etag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    again = client.get("/jobs/a/outputs/cat.png", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    (completed / "cat.png").write_bytes(b"another picture")
    changed = client.get("/jobs/a/outputs/cat.png", headers={"If-None-Match": answer.headers["etag"]})
    assert (changed.status_code, changed.content) == (200, b"another picture")


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=5-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("pages=1-2", 200, b"0123456789", None),
    ],
)
def test_a_part_can_be_asked_for(
    asked: str, status: int, content: bytes | None, told: str | None, client: TestClient, completed: Path
) -> None:
    answer = client.get("/jobs/a/outputs/cat.png", headers={"Range": asked})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == told
    if content is not None:
        assert answer.content == content
        assert answer.headers["content-length"] == str(len(content))


def test_a_part_of_another_version_is_not_sent(client: TestClient, completed: Path) -> None:
    headers = {"Range": "bytes=0-3", "If-Range": '"of-before"'}
    assert client.get("/jobs/a/outputs/cat.png", headers=headers).status_code == 200
    headers["If-Range"] = client.get("/jobs/a/outputs/cat.png").headers["etag"]
    assert client.get("/jobs/a/outputs/cat.png", headers=headers).status_code == 206


@pytest.mark.parametrize("path", ["outputs/page.html", "outputs/cat.png", "outputs.zip"])
def test_nothing_is_ever_shown_as_a_page_of_ours(path: str, client: TestClient, completed: Path) -> None:
    headers = client.get(f"/jobs/a/{path}").headers
    assert headers["content-disposition"].startswith("attachment;")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert "private" in headers["cache-control"]


def test_all_outputs_come_as_one_zip(client: TestClient, completed: Path) -> None:
    answer = client.get("/jobs/a/outputs.zip")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "cat.png": b"0123456789",
            "page.html": PAGE,
            "parts/one.bin": b"",
        }


def test_a_zip_is_made_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(bytes(5_000_000))
    pieces = [len(piece) for piece in zip_chunks(list_outputs(tmp_path))]
    assert max(pieces) < 600_000
    assert sum(pieces) > 5_000_000


@pytest.mark.parametrize(
    "name",
    [
        "dog.png",
        "../input/secret",
        "%2e%2e/input/secret",
        "..%2finput%2fsecret",
        "parts",
        "parts/",
        "/etc/passwd",
        "%2fetc/passwd",
        "link.txt",
        "linked/secret",
        ".attempt-1/half.png",
        "cat.png%00",
        "cat.png/x",
        "%ff",
        "x" * 5000,
    ],
)
def test_no_name_leads_to_anything_else(
    name: str, client: TestClient, completed: Path, storage: LocalFileStorage
) -> None:
    inputs = storage.get_input_path("a")
    (inputs / "secret").write_text("not yours")
    (completed / "link.txt").symlink_to(inputs / "secret")
    (completed / "linked").symlink_to(inputs)
    (completed / ".attempt-1").mkdir()
    (completed / ".attempt-1" / "half.png").write_text("half")
    answer = client.get(f"/jobs/a/outputs/{name}")
    assert answer.status_code == 404, answer.text
    assert len(client.get("/jobs/a/outputs").json()) == 3


def test_a_storage_below_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "cat.png").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert find_output(tmp_path / "link", "cat.png") is not None


def test_a_job_has_no_outputs_before_it_is_completed(
    client: TestClient, store: RedisJobStore, storage: LocalFileStorage
) -> None:
    storage.create_job_directory("a")
    (storage.get_output_path("a") / "early.png").write_text("x")
    claim(store, "a")
    assert client.get("/jobs/a/outputs").json() == []
    assert client.get("/jobs/a").json()["outputs"] is None
    for path in ("outputs/early.png", "outputs.zip"):
        answer = client.get(f"/jobs/a/{path}")
        assert answer.status_code == 409
        assert "once it is completed" in answer.json()["detail"]


def test_a_download_goes_on_when_the_job_is_removed(client: TestClient, completed: Path) -> None:
    (completed / "cat.png").write_bytes(bytes(3_000_000))
    with client.stream("GET", "/jobs/a/outputs/cat.png") as answer:
        chunks = answer.iter_bytes(1000)
        read = len(next(chunks))
        assert client.delete("/jobs/a").status_code == 204
        read += sum(map(len, chunks))
    assert read == 3_000_000
