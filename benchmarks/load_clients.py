"""Clients of the load run: each uploads a picture, follows its job, fetches what it made, removes it, begins again."""

import http.client
import io
import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from cl_ml_tools.demo.picture import draw_picture

BOUNDARY = "benchmark-of-load"
SECONDS = 60.0
"""Longest wait for an answer, and for a job."""


@dataclass(frozen=True)
class Upload:
    """A request that makes a job."""

    path: str
    body: bytes


@dataclass
class Seen:
    """What all clients have seen."""

    upload_seconds: list[float] = field(default_factory=list)
    job_seconds: list[float] = field(default_factory=list)
    downloads: int = 0
    downloaded_bytes: int = 0
    events: int = 0
    errors: list[str] = field(default_factory=list)


def pictures(folder: Path) -> list[bytes]:
    """JPEGs of 0.5 to 12 megapixels with the grain of a photograph, from 150 kB to some MB."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_picture(folder / "drawn.jpg")
    drawn = Image.open(folder / "drawn.jpg").convert("RGB")
    made = []
    for width, height in ((800, 600), (1600, 1200), (2000, 1500), (3000, 2000), (4000, 3000)):
        grain = Image.effect_noise((width, height), 24).convert("RGB")
        picture = Image.blend(drawn.resize((width, height)), grain, 0.25)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=85)
        made.append(data.getvalue())
    return made


def uploads(folder: Path) -> list[Upload]:
    """The requests, one of them chosen each time; small pictures are more frequent than large ones."""
    small, *rest = pictures(folder)
    resize = {"width": "1024", "height": "1024"}
    chosen = [_upload("image_thumbnail", small, {})] * 4
    chosen += [_upload("image_resize", picture, resize) for picture in rest]
    chosen += [_upload("image_thumbnail", picture, {}) for picture in rest]
    return chosen


def _upload(task: str, picture: bytes, form: dict[str, str]) -> Upload:
    fields = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in form.items()
    )
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="IMG_1.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return Upload(
        f"/api/jobs/{task}", f"{fields}{head}".encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


class Client(threading.Thread):
    """One client, until it is told to end."""

    def __init__(
        self, number: int, port: int, choice: list[Upload], seen: Seen, over: threading.Event
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._random = random.Random(number)
        self._port = port
        self._choice = choice
        self._seen = seen
        self._over = over
        self._connection = self._connect()

    def run(self) -> None:
        """See `Client`."""
        while not self._over.is_set():
            try:
                self._once()
            except (OSError, http.client.HTTPException, ValueError, AssertionError) as error:
                self._seen.errors.append(f"{type(error).__name__}: {error}")
                self._connection.close()
                self._connection = self._connect()
        self._connection.close()

    def _once(self) -> None:
        upload = self._random.choice(self._choice)
        begin = time.perf_counter()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        job_id = json.loads(self._ask("POST", upload.path, upload.body, headers))["job_id"]
        self._seen.upload_seconds.append(time.perf_counter() - begin)
        ended = self._follow(job_id) if self._random.random() < 0.5 else self._poll(job_id)
        if ended != "completed":
            raise ValueError(f"job {job_id} is {ended}")
        self._seen.job_seconds.append(time.perf_counter() - begin)
        if self._random.random() < 0.5:
            self._download(job_id)
        self._ask("DELETE", f"/api/jobs/{job_id}")

    def _follow(self, job_id: str) -> str:
        """Its server-sent events, to the last one."""
        connection = self._connect()
        try:
            connection.request("GET", f"/api/jobs/{job_id}/events")
            response = connection.getresponse()
            assert response.status == 200, response.status
            status = ""
            for line in response:
                if line.startswith(b"data:"):
                    self._seen.events += 1
                    status = json.loads(line[5:])["status"]
            return status
        finally:
            connection.close()

    def _poll(self, job_id: str) -> str:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            status = str(json.loads(self._ask("GET", f"/api/jobs/{job_id}"))["status"])
            if status in ("completed", "error", "cancelled"):
                return status
            time.sleep(self._random.uniform(0.1, 0.3))
        return "not ended in time"

    def _download(self, job_id: str) -> None:
        for output in json.loads(self._ask("GET", f"/api/jobs/{job_id}/outputs")):
            data = self._ask("GET", f"/api/jobs/{job_id}/outputs/{output['name']}")
            assert len(data) == output["size"] > 0, f"an output of {job_id} is not whole"
            self._seen.downloads += 1
            self._seen.downloaded_bytes += len(data)

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: Any = None) -> bytes:
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise ValueError(f"{method} {path.split('/')[-1]}: {response.status} {answer[:200]!r}")
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
