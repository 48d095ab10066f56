"""Clients that mean harm, against a real master: each is refused, nothing stays, and others are served."""

import asyncio
import io
import random
import socket
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastapi import FastAPI, HTTPException, UploadFile
from harness import Environment, Process, all_jobs, ended, wait_until
from PIL import Image
from raw_http import BOUNDARY, END, MULTIPART, PATIENCE, answer_of, connect, exchange, head, part, post

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.file_names import safe_file_name
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.web.slow_bodies import STEP_BYTES, BodyTimeout

RESIZE = "/api/jobs/image_resize"
SIZE = part("width", b"3") + part("height", b"3")
FILE = part("file", b"x", "a.png")
URLENCODED = "Content-Type: application/x-www-form-urlencoded"

MAX_MORE_MEMORY = 80_000_000
"""What the master may have needed at its worst, above what it has when nothing happens."""


@dataclass(frozen=True)
class Target:
    """A master, and what it keeps."""

    master: Process
    store: RedisJobStore
    jobs: Path
    idle_memory: int

    @property
    def url(self) -> str:
        return self.master.url

    @property
    def directories(self) -> list[Path]:
        return list(self.jobs.glob("*"))

    @property
    def most_memory(self) -> int:
        """The largest that it ever was."""
        status = Path(f"/proc/{self.master.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def remove(self, job_id: str) -> None:
        assert httpx2.delete(f"{self.url}/api/jobs/{job_id}", timeout=PATIENCE).status_code == 204


@pytest.fixture(scope="module")
def the_target(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One master for all of them: each test finds what the one before has done to it."""
    folder = tmp_path_factory.mktemp("hostile")
    variables = {
        "CL_ML_TOOLS_REDIS_URL": redis_server.redis_url,
        "CL_ML_TOOLS_STORAGE_DIR": str(folder / "media"),
        "CL_ML_TOOLS_KEY_PREFIX": "hostile",
        "CL_ML_TOOLS_SLOW_CLIENT_SECONDS": "1",
        "CL_ML_TOOLS_MAX_UPLOAD_BYTES": "20000000",
        "CL_ML_TOOLS_MAX_REQUEST_BYTES": "50000000",
    }
    master = Environment(variables, folder).master()
    try:
        master.wait_for("Application startup complete")
        assert post(master.url, RESIZE, FILE + END, MULTIPART).status == 422
        with RedisJobStore(redis_server.redis_url, prefix="hostile") as store:
            memory = psutil.Process(master.pid).memory_info().rss
            yield Target(master, store, folder / "media" / "jobs", memory)
    finally:
        master.kill_group()


@pytest.fixture
def target(the_target: Target) -> Iterator[Target]:
    """The master; behind each test it has kept nothing, is as small as before, and does its work."""
    yield the_target
    try:
        wait_until(lambda: not the_target.directories, why="nothing is left in the storage")
        assert all_jobs(the_target.store) == []
    finally:
        for job in all_jobs(the_target.store):
            the_target.remove(job.job_id)
    assert "Traceback" not in the_target.master.output
    answer = post(the_target.url, RESIZE, SIZE + FILE + END, MULTIPART)
    assert answer.status == 200, answer.text
    (job,) = all_jobs(the_target.store)
    the_target.remove(job.job_id)
    assert the_target.most_memory - the_target.idle_memory < MAX_MORE_MEMORY


# --- names

NAMES: list[str | bytes] = [
    *("../../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/passwd", "C:\\x\\a.png", "\\\\host\\share\\a.png"),
    *("..", ".", "...", "/", "\\", "~", ".htaccess", "-rf", "a/../../b", "%2e%2e%2fa.png", "file:///etc/passwd"),
    *("CON", "con.png", "NUL.", "COM1.txt", "lpt\N{SUPERSCRIPT TWO}.png", "aux .png", "a.png::$DATA", "a.png. . ."),
    *("a\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe", "\N{ZERO WIDTH SPACE}", "\N{FULLWIDTH SOLIDUS}etc"),
    *("e\N{COMBINING ACUTE ACCENT}.png", "\N{DIVISION SLASH}..\N{DIVISION SLASH}a"),
    *("\N{PILE OF POO}" * 200 + ".png", "a" * 5000 + ".png", "a." + "x" * 3000),
    *(b"nul\0.png", b"\0", b"\xff\xfe.png", b"\xed\xa0\x80.png", b"\xc0\xae\xc0\xae/a", b"a\tb\x1b[31m.png", b"%s%n%d"),
    *("<script>alert(1)</script>.svg", "$(reboot).png", "a;b|c&d.png", "' OR 1=1 --", "{{7*7}}", "a.png\\"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_hostile_name_becomes_a_safe_one_or_is_refused(name: str | bytes, target: Target) -> None:
    answer = post(target.url, RESIZE, SIZE + part("file", b"x", name) + END, MULTIPART)
    assert answer.status == 200 or answer.is_refusal, answer.text
    for job in all_jobs(target.store):
        (kept,) = [path for path in target.jobs.rglob("*") if path.is_file()]
        assert kept.parent == target.jobs / job.job_id / "input"
        assert job.params["input_paths"] == [str(kept)]
        assert safe_file_name(kept.name) == kept.name
        (output,) = job.params["output_paths"]
        assert Path(output).resolve().parent == target.jobs / job.job_id / "output"
        # It can be asked for and removed like any other.
        assert httpx2.get(f"{target.url}/api/jobs/{job.job_id}").status_code == 200
        target.remove(job.job_id)


# --- bodies


def nested(levels: int) -> bytes:
    """Forms in a form."""
    body = b"x"
    for level in range(levels):
        kind = f"Content-Type: multipart/mixed; boundary=b{level}".encode()
        body = b"--b%d\r\n%s\r\n\r\n%s\r\n--b%d--\r\n" % (level, kind, body, level)
    return body


BODIES: dict[str, tuple[int | tuple[int, ...], bytes]] = {
    "a field of 2 MB": (413, SIZE + part("background", bytes(2_000_000)) + FILE + END),
    "fields of 2 MB together": (413, part("background", bytes(20_000)) * 100 + FILE + END),
    "two thousand fields": (400, part("x", b"") * 2000 + FILE + END),
    "ten thousand parts": (400, SIZE + FILE + part("x", b"") * 10_000 + END),
    "three thousand files": ((400, 422), SIZE + FILE * 3000 + END),
    "three thousand files of no field of ours": (400, SIZE + FILE + part("x", b"x", "x") * 3000 + END),
    "a file of 25 MB": (413, SIZE + part("file", bytes(25_000_000), "a") + END),
    "a name of 100 kB": (400, part("x" * 100_000, b"") + FILE + END),
    "a file's name of 100 kB": (400, SIZE + part("file", b"x", "x" * 100_000) + END),
    "a part with a header of 1 MB": (400, SIZE + part("file", b"x", "a", b"X: " + b"y" * 1_000_000) + END),
    "a part with a thousand headers": (400, SIZE + part("file", b"x", "a", *[b"X: y"] * 1000) + END),
    "a part without a name": (400, b"--%s\r\nContent-Disposition: form-data\r\n\r\nx\r\n" % BOUNDARY.encode() + END),
    "a part without headers": (400, b"--%s\r\n\r\nx\r\n" % BOUNDARY.encode() + END),
    "a header without a colon": (400, SIZE + part("file", b"x", "a", b"nonsense") + END),
    "a header with a NUL": (400, SIZE + part("file", b"x", "a", b"X\0: y") + END),
    "another boundary": (400, (SIZE + FILE + END).replace(BOUNDARY.encode(), b"-----y")),
    "no end": (400, SIZE + FILE),
    "cut in a header": (400, SIZE + FILE[:30]),
    "cut in the end": (400, SIZE + FILE + END[:-4]),
    "nothing": (400, b""),
    "only its end": ((400, 422), END),
    "line feeds alone": (400, (SIZE + FILE + END).replace(b"\r\n", b"\n")),
    "text before it": (400, b"x" * 100_000 + SIZE + FILE + END),
    "zeros": (400, bytes(1_000_000)),
    "a form in a form in a form": (422, SIZE + part("file", nested(50)) + END),
    "a file as text": (422, SIZE + part("file", b"x") + END),
    "a file without a name": (422, SIZE + part("file", b"x", "") + END),
    "a number as a file": (422, part("width", b"3", "3") + part("height", b"3") + FILE + END),
    "no number": (422, part("width", b"\xff\0") + part("height", b"3") + FILE + END),
    "a number of a million digits": (422, part("width", b"9" * 900_000) + part("height", b"3") + FILE + END),
    "an infinite number": (422, part("width", b"1e999") + part("height", b"NaN") + FILE + END),
    "a priority of nothing": (422, SIZE + part("priority", b"-1") + FILE + END),
    "a job that is a path": (422, SIZE + part("from_job", b"../../etc") + END),
    "an output that is a path": (422, SIZE + part("from_output", b"../../etc/passwd") + END),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_hostile_body_is_refused(what: str, chunked: bool, target: Target) -> None:
    expected, body = BODIES[what]
    if not chunked:
        answer = post(target.url, RESIZE, body, MULTIPART)
    else:
        size = 100_003
        pieces = [body[n : n + size] for n in range(0, len(body), size)]
        request = head("POST", RESIZE, "Connection: close", "Transfer-Encoding: chunked", MULTIPART)
        chunks = (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        answer = exchange(target.url, request, chunks, b"0\r\n\r\n")
    # A reset can overtake the answer when the client still sends.
    statuses = expected if isinstance(expected, tuple) else (expected,)
    assert answer.status in (*statuses, 0), answer.text
    assert answer.status or len(body) > 100_000, "a small request has an answer"


CONTENT_TYPES = [
    *("text/plain", "application/json", "application/xml", "image/png", "multipart/mixed; boundary=x", "x", "/"),
    *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\x01"),
    *("multipart/form-data; boundary=" + "x" * 5000, "multipart/form-data; boundary=a; boundary=b"),
    *('multipart/form-data; boundary="', "multipart/form-data; Boundary*=utf-8''x", "multipart/form-data;" * 500),
    *("multipart/form-data; boundary=\xff\xfe", "application/x-www-form-urlencoded; charset=utf-7", ""),
]  # fmt: skip


@pytest.mark.parametrize("kind", CONTENT_TYPES, ids=lambda kind: ascii(kind)[:50])
def test_a_wrong_content_type_is_refused(kind: str, target: Target) -> None:
    answer = post(target.url, RESIZE, SIZE + FILE + END, f"Content-Type: {kind}")
    assert answer.status in (400, 422), answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"width=3&height=3&background=" + b"x" * 2_000_000, 413),
        (b"x=1&" * 5000, 400),
        (b"&=" * 10_000, (400, 422)),
        (b"%ff%00=%zz&width=%f0%9f", 422),
        (b"width=3&height=3&file=a.png", 422),
        (b"width[$gt]=3&height[]=3&__proto__=x", 422),
        (b"{" * 500_000, 422),
    ],
)
def test_a_hostile_form_without_files_is_refused(
    body: bytes, status: int | tuple[int, ...], target: Target
) -> None:
    answer = post(target.url, RESIZE, body, URLENCODED)
    assert answer.status in (status if isinstance(status, tuple) else (status,)), answer.text


def test_a_deep_document_is_refused_unread(target: Target) -> None:
    answer = post(target.url, RESIZE, b"[" * 1_000_000, "Content-Type: application/json")
    assert answer.status == 400


def test_bodies_with_random_faults_are_answered(target: Target) -> None:
    """Never a 5xx, whatever bytes are changed, cut out or doubled."""
    chance = random.Random(6)
    whole = SIZE + part("file", b"x" * 50, "a.png") + part("priority", b"5") + END
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            begin = chance.randrange(len(body))
            end = min(len(body), begin + chance.randint(1, 30))
            match chance.randrange(4):
                case 0:
                    body[begin] = chance.randrange(256)
                case 1:
                    del body[begin:end]
                case 2:
                    body[begin:begin] = body[begin:end]
                case _:
                    body[begin:begin] = chance.choice(
                        [b"\r\n", b"\0", b"--", b'"', BOUNDARY.encode(), b";", b"\\"]
                    )
        answer = post(target.url, RESIZE, bytes(body), MULTIPART)
        assert answer.status == 200 or answer.is_refusal, (bytes(body), answer.text)
    for job in all_jobs(target.store):
        target.remove(job.job_id)


# --- requests

LENGTH = f"Content-Length: {len(SIZE + FILE + END)}"

REQUESTS: dict[str, tuple[str, ...]] = {
    "two lengths": (LENGTH, "Content-Length: 5"),
    "a length that is none": ("Content-Length: x",),
    "a length below zero": ("Content-Length: -5",),
    "a length and chunks": (LENGTH, "Transfer-Encoding: chunked"),
    "an unknown encoding": ("Transfer-Encoding: gzip",),
    "chunks that are none": ("Transfer-Encoding: chunked",),
    "a petabyte declared": ("Content-Length: 1000000000000000",),
    "a header of 1 MB": (LENGTH, "X: " + "y" * 1_000_000),
    "a hundred thousand headers": (LENGTH, *(f"X-{n}: y" for n in range(100_000))),
    "a header without a name": (LENGTH, ": y"),
    "a header with a space in its name": (LENGTH, "X y: z"),
    "a header with a NUL": (LENGTH, "X: a\0b"),
    "an idempotency key with a space": (LENGTH, "Idempotency-Key: a b"),
    "an idempotency key of 300 letters": (LENGTH, "Idempotency-Key: " + "x" * 300),
    "an idempotency key that is no ASCII": (LENGTH, "Idempotency-Key: \xff"),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_hostile_header_is_refused(what: str, target: Target) -> None:
    request = head("POST", RESIZE, "Connection: close", MULTIPART, *REQUESTS[what])
    answer = exchange(target.url, request, SIZE + FILE + END)
    assert answer.is_refusal or not answer.status, answer.text


@pytest.mark.parametrize(
    "line",
    [
        *(b"\x16\x03\x01\x02\x00\x01", b"GET", b"GET / HTTP/9.9", b"G\0T / HTTP/1.1", b"GET /\xff\xfe HTTP/1.1"),
        *(b"GET  /  HTTP/1.1", b"get / HTTP/1.1 x", b"GET /" + b"a" * 100_000 + b" HTTP/1.1", b"\0" * 1000),
        *(b"BREW /api/jobs HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"TRACE / HTTP/1.1", b"PUT /api/jobs HTTP/1.1"),
    ],
    ids=lambda line: ascii(line)[:30],
)  # fmt: skip
def test_a_hostile_request_line_is_refused(line: bytes, target: Target) -> None:
    answer = exchange(target.url, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n", half_close=True)
    assert answer.is_refusal or not answer.status, answer.text


@pytest.mark.parametrize(
    "path",
    [
        *("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "%00", "a%00b", "%ff%fe", "x" * 5000),
        *("x/outputs/..%2f..%2fx", "x/outputs/%2e%2e/%2e%2e/x", "x/outputs/%00", "x/outputs/" + "a/" * 2000),
        *("?limit=0", "?limit=99999999999999999999", "?cursor=%00", "?status=x", "?created_from=1e999", "x?wait=nan"),
        *("?task_type=" + "x" * 5000, "?cursor=99999999999999999999.a", "x?wait=-1", "x?wait=inf", "x?wait=%00"),
    ],
    ids=lambda path: path[:30],
)  # fmt: skip
def test_a_hostile_path_or_query_is_refused(path: str, target: Target) -> None:
    request = head("GET", f"/api/jobs{path if path[0] == '?' else '/' + path}", "Connection: close")
    answer = exchange(target.url, request)
    assert answer.is_refusal, answer.text


@pytest.mark.parametrize(
    "header",
    ["Last-Event-ID: x", "Last-Event-ID: -1-1", "Last-Event-ID: " + "9" * 100, "Last-Event-ID: \xff"],
)
def test_a_hostile_place_in_a_stream_is_refused(header: str, target: Target) -> None:
    answer = exchange(target.url, head("GET", "/api/jobs/events", "Connection: close", header))
    assert answer.status == 422


# --- clients that are slow, or go


@pytest.mark.parametrize(
    "sent",
    [b"", SIZE, SIZE + FILE[:-5], SIZE + part("file", bytes(3_000_000), "a")[:-2]],
    ids=["nothing", "fields", "half a file", "3 MB"],
)
def test_a_client_that_stops_sending_gets_408(sent: bytes, target: Target) -> None:
    answer = exchange(target.url, head("POST", RESIZE, "Content-Length: 9000000", MULTIPART), sent)
    assert answer.status == 408, answer.text
    assert "application/problem+json" in answer.text
    assert "came in too slowly" in answer.text


@pytest.mark.parametrize("kind", [MULTIPART, URLENCODED])
def test_a_client_that_sends_a_byte_now_and_then_gets_408(kind: str, target: Target) -> None:
    with connect(target.url) as connection:
        connection.sendall(head("POST", RESIZE, "Content-Length: 9000000", kind))
        if kind is MULTIPART:
            connection.sendall(SIZE + part("file", b"", "a")[:-2])
        assert trickle(connection).startswith("HTTP/1.1 408")


def trickle(connection: socket.socket) -> str:
    """Send a byte and again one, until the server closes the connection; what it has said."""
    received = bytearray()
    connection.settimeout(0.1)
    for _ in range(int(PATIENCE * 10)):
        try:
            connection.sendall(b"x")
            chunk = connection.recv(65536)
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
        if not chunk:
            break
        received += chunk
    else:
        raise AssertionError(f"the server has waited all along, and said {received!r}")
    return received.decode("latin-1")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"P",
        b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nX: ",
        b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX: ",
        # Answered at once; the body that was announced comes later, or never.
        b"GET /api/none HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n",
    ],
    ids=["nothing", "a letter", "headers", "headers of a second request", "the body of an answered one"],
)
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "trickling"])
def test_a_client_that_never_comes_to_the_point_is_cut_off(sent: bytes, silent: bool, target: Target) -> None:
    with connect(target.url) as connection:
        connection.sendall(sent)
        if silent:
            answer_of(connection)
        else:
            trickle(connection)


def test_many_slow_clients_keep_nobody_out(target: Target) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(target.url)) for _ in range(200)]
        for number, connection in enumerate(slow):
            request = head("POST", RESIZE, "Content-Length: 9000000", MULTIPART)
            connection.sendall(request[:40] if number % 2 else request + SIZE + FILE)
        answer = post(target.url, RESIZE, SIZE + FILE + END, MULTIPART)
        assert answer.status == 200
        (job,) = all_jobs(target.store)
        target.remove(job.job_id)
        assert {answer_of(connection).status for connection in slow} == {0, 408}


@pytest.mark.parametrize("after", [0, 10, len(SIZE), len(SIZE) + 60, len(SIZE + FILE) - 1])
def test_a_client_that_goes_leaves_nothing(after: int, target: Target) -> None:
    with connect(target.url) as connection:
        body = SIZE + FILE + END
        connection.sendall(head("POST", RESIZE, f"Content-Length: {len(body)}", MULTIPART) + body[:after])


def test_a_body_that_comes_steadily_may_take_long() -> None:
    """Longer than a slow client is given, at the least speed."""
    pieces = [bytes(STEP_BYTES)] * 5

    async def app(_: Any, receive: Callable[[], Awaitable[Any]], __: Any) -> None:
        while (await receive())["more_body"]:
            pass

    async def steadily() -> dict[str, Any]:
        await asyncio.sleep(0.5)
        return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def ignore(_: Any) -> None:
        pass

    scope: dict[str, Any] = {"type": "http"}
    asyncio.run(BodyTimeout(app, seconds=2)(scope, steadily, ignore))
    assert pieces == []
    with pytest.raises(HTTPException) as raised:
        asyncio.run(BodyTimeout(app, seconds=0.05)(scope, never, ignore))
    assert raised.value.status_code == 408


def test_a_route_of_0_2_0_is_bounded_too() -> None:
    app = FastAPI()
    app.add_middleware(BodyTimeout, seconds=0.05)

    @app.post("/")
    async def take(file: UploadFile) -> None:
        raise AssertionError(file)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", MULTIPART.partition(": ")[2].encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
    asyncio.run(app({**scope, "asgi": {"version": "3.0"}}, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


# --- files that are several things at once

SCRIPT = b"<script>alert(document.domain)</script>"


def picture_and(*more: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(file, "gif")
    return file.getvalue() + b"".join(more)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as whole:
        whole.writestr("../../evil.sh", "reboot")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("a.gif", picture_and(SCRIPT), "completed"),
        ("a.html", picture_and(archive()), "completed"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'>" + SCRIPT + b"</svg>", "error"),
        ("a.png", b"GIF89a/*" + SCRIPT, "error"),
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file", "error"),
        ("a.png", archive(), "error"),
    ],
)
def test_a_polyglot_is_a_picture_or_an_error_and_never_a_page(
    name: str,
    content: bytes,
    status: str,
    start_master: Callable[..., Process],
    start_worker: Callable[..., Process],
    repository: CeleryJobRepository,
) -> None:
    start_worker("-c", "1", "-P", "solo")
    url = start_master().url
    form = {"width": "4", "height": "4"}
    answer = httpx2.post(f"{url}{RESIZE}", data=form, files={"file": (name, content)}, timeout=PATIENCE)
    job_id = answer.json()["job_id"]
    assert ended(repository, job_id).status == status
    outputs = httpx2.get(f"{url}/api/jobs/{job_id}/outputs", timeout=PATIENCE).json()
    assert len(outputs) == (status == "completed")
    for output in outputs:
        shown = httpx2.get(f"{url}/api/jobs/{job_id}/outputs/{output['name']}", timeout=PATIENCE)
        assert SCRIPT not in shown.content
        assert b"evil.sh" not in shown.content
        assert shown.headers["content-disposition"].startswith("attachment")
        assert shown.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in shown.headers["content-security-policy"]
