"""What an upload costs: ours beside the 0.2.0 README's way and a bare read-and-drop, in one run.

    python -m benchmarks.uploads [--json] [--quick] [--folder DIR]

For each: bytes that reach the disk, memory over the idle server and the longest stall of other requests while one
large file comes; then uploads of 1 MB, and of 5 MB, a second. The folder must lie on a disk, not in memory.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAYS = ("bare", "ours", "as_in_0_2_0")
ROOT = Path(__file__).parent.parent
BOUNDARY = "benchmark"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
MB = 1_000_000


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the files go; a new one below /var/tmp"
    )
    options = parser.parse_args()
    large, rounds, small = (50, 2, 100) if options.quick else (200, 5, 400)
    counts = {1: small, 5: small // 5}
    folder = Path(tempfile.mkdtemp(prefix="uploads-", dir=options.folder or "/var/tmp"))
    try:
        measured: dict[str, dict[str, Any]] = {
            way: {f"{size}_mb_per_second": [] for size in counts} for way in WAYS
        }
        for way in WAYS:
            with server(way, folder) as (process, port):
                post(port, MB)  # what is loaded at the first upload is no cost of the next
                measured[way] |= one_large(process, port, large)
        # In turns, so that a busy moment of the machine strikes all.
        for _ in range(rounds):
            for way in WAYS:
                with server(way, folder) as (_, port):
                    post(port, MB)
                    for size, count in counts.items():
                        measured[way][f"{size}_mb_per_second"].append(many(port, size, count))
        for figures in measured.values():
            for size in counts:
                name = f"{size}_mb_per_second"
                figures[name] = round(statistics.median(figures[name]), 1)
    finally:
        shutil.rmtree(folder)
    ours, old = measured["ours"], measured["as_in_0_2_0"]
    result = {
        "large_mb": large,
        "ways": measured,
        "ours_copies_on_disk": round(ours["written_mb"] / large, 3),
    }
    for other, figures in (("0_2_0", old), ("bare", measured["bare"])):
        for name in (f"{size}_mb_per_second" for size in counts):
            result[f"ours_to_{other}_{name}"] = round(ours[name] / figures[name], 2)
    print(table(result))
    if options.json:
        print(json.dumps(result))


def one_large(process: int, port: int, megabytes: int) -> dict[str, float]:
    """One file of so many MB, while another client asks for nothing every 2 ms."""
    idle = memory_mb(process, "VmRSS")
    Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak of memory begins anew
    before = written_mb(process)
    stalls: list[float] = []
    over = threading.Event()

    def ping() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while not over.is_set():
            begin = time.perf_counter()
            connection.request("GET", "/ping")
            connection.getresponse().read()
            stalls.append(time.perf_counter() - begin)
            time.sleep(0.002)

    thread = threading.Thread(target=ping)
    thread.start()
    begin = time.perf_counter()
    post(port, megabytes * MB)
    seconds = time.perf_counter() - begin
    over.set()
    thread.join()
    return {
        "seconds": round(seconds, 2),
        "written_mb": round(written_mb(process) - before, 1),
        "memory_over_idle_mb": round(memory_mb(process, "VmHWM") - idle, 1),
        "stall_ms": round(1000 * max(stalls), 1),
    }


def many(port: int, megabytes: int, count: int) -> float:
    """Uploads of so many MB a second, by four clients."""
    with ThreadPoolExecutor(4) as pool:
        begin = time.perf_counter()
        list(pool.map(lambda _: post(port, megabytes * MB), range(count)))
        return count / (time.perf_counter() - begin)


_CHUNK = os.urandom(256 * 1024)


def post(port: int, size: int) -> None:
    """Upload ``size`` bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.putrequest("POST", "/jobs/probe")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(len(HEAD) + size + len(TAIL)))
    connection.endheaders(HEAD)
    for begin in range(0, size, len(_CHUNK)):
        connection.send(memoryview(_CHUNK)[: size - begin])
    connection.send(TAIL)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {body!r}")


@contextmanager
def server(way: str, folder: Path) -> Iterator[tuple[int, int]]:
    """A uvicorn process; gives its process id and port. Its files are removed behind it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = folder / way
    place.mkdir()
    (place / "tmp").mkdir()
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.upload_apps:{way}", "--factory"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning", "--no-access-log"],
        env={**os.environ, "BENCHMARK_FOLDER": str(place), "TMPDIR": str(place / "tmp")},
        cwd=ROOT,
    )
    try:
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.02)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(place)


def written_mb(process: int) -> float:
    """What the process has written to disks so far."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(fields["write_bytes"]) / MB


def memory_mb(process: int, field: str) -> float:
    """``VmRSS`` or ``VmHWM`` of the process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / MB
    raise RuntimeError(f"no {field} in /proc/{process}/status")


def table(result: dict[str, Any]) -> str:
    """The figures as lines."""
    names = list(result["ways"]["ours"])
    lines = [" ".join(f"{name:>20}" for name in ["", *names])]
    for way, figures in result["ways"].items():
        lines.append(" ".join(f"{value:>20}" for value in [way, *(figures[name] for name in names)]))
    lines += [f"{name}: {value}" for name, value in result.items() if name.startswith("ours_")]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
