"""``python -m benchmarks.chaos --seed 1 --seconds 60 --broker redis --json``: see docs/testing.md."""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

# The servers and processes of the tests are the chaos run's too.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from redis.exceptions import RedisError

from benchmarks.chaos.audit import Findings, as_json, audit
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.faults import FaultLog, Faults
from cl_ml_tools import sweep
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore


class EventTail:
    """Keeps what each job's events said, before the capped stream forgets it."""

    def __init__(self, cluster: Cluster, store: RedisJobStore) -> None:
        self._store = store
        self._last = "0"
        self.states: dict[str, list[str]] = defaultdict(list)

    def read(self) -> None:
        try:
            while events := self._read_some():
                for event_id, fields in events:
                    self._last = event_id
                    state = "deleted" if "d" in fields else fields["s"]
                    states = self.states[fields["j"]]
                    if not states or states[-1] != state:
                        states.append(state)
        except RedisError:
            return  # later

    def _read_some(self) -> list[Any]:
        client: Any = self._store.client
        events: list[Any] = client.xrange(self._store.keys("events"), min=f"({self._last}", count=5000)
        return events


def main() -> int:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="cl_ml_tools-chaos-", dir=options.folder))
    cluster = Cluster(folder, options.broker, options.seed, options.masters)
    try:
        found, faults = run(cluster, options)
    finally:
        cluster.close()
    answer = as_json(found, faults)
    show(found, faults, answer)
    if found.is_clean and not options.keep:
        shutil.rmtree(folder)
    else:
        print(f"All that it left is in {folder}")
    if not found.is_clean:
        print(
            f"To run it again: python -m benchmarks.chaos --seed {options.seed} --seconds {options.seconds:g}"
            f" --broker {options.broker} --masters {options.masters} --pause {options.pause:g}"
        )
    if options.json:
        print(json.dumps(answer))
    return 0 if found.is_clean else 1


def run(cluster: Cluster, options: argparse.Namespace) -> tuple[Findings, FaultLog]:
    """Start all, disturb it for a time, let it come to rest, and judge."""
    cluster.start()
    store = RedisJobStore(cluster.redis.redis_url)
    tail = EventTail(cluster, store)
    faults = Faults(cluster, options.seed, options.pause)
    over = threading.Event()

    def follow() -> None:
        while not over.wait(1):
            tail.read()

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            faults.step()
        faults.settle()
        cluster.end_masters()
        cluster.tend()
        drained = drain(cluster, store, options.drain)
        print(f"drained in {drained:.1f} s" if drained else "NOT drained", flush=True)
        cluster.end_nodes()
    finally:
        over.set()
        follower.join()
    tail.read()
    # Each file that it removes is a line, and thousands are wanted here.
    logging.getLogger(sweep.__name__).setLevel(logging.ERROR)
    with mock.patch.object(sweep, "MIN_AGE_SECONDS", -1.0):
        list(sweep.sweep(LocalFileStorage(cluster.folder / "media"), store))
    records = {record.job_id: record for record in _all_records(store)}
    store.close()
    return audit(cluster.folder, records, tail.states, faults.log), faults.log


def drain(cluster: Cluster, store: RedisJobStore, seconds: float) -> float | None:
    """Wait until every job is at its end; how long that took, or None when it did not come to that."""
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        cluster.tend()
        try:
            waits = [
                store.client.zcard(store.keys("status", status))
                for status in (JobStatus.QUEUED, JobStatus.PROCESSING)
            ]
            leases = store.client.zcard(store.keys("leases"))
        except (StoreUnavailableError, RedisError):
            continue
        # A deleted job that still runs has no status that can be listed, but a lease.
        if not any([*waits, leases]):
            return time.monotonic() - begin
        time.sleep(0.2)
    return None


def _all_records(store: RedisJobStore) -> list[Any]:
    client: Any = store.client
    return [
        record
        for job_id in client.zrange(store.keys("jobs"), 0, -1)
        if (record := store.get(job_id)) is not None
    ]


def show(found: Findings, faults: FaultLog, answer: dict[str, Any]) -> None:
    """Print what was counted, then what is wrong."""
    for name, value in {**answer, **dict(sorted(faults.counts.items()))}.items():
        print(f"{name:24} {value}")
    print(f"slowest recovery: {found.slowest[1]}")
    for title in ("lost", "wrong", "stuck", "overlapped"):
        for line in getattr(found, title)[:20]:
            print(f"{title.upper()}: {line}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of what is submitted and what goes wrong")
    parser.add_argument("--seconds", type=float, default=60, help="how long it is disturbed")
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    parser.add_argument("--masters", type=int, default=2, help="how many submit")
    parser.add_argument("--pause", type=float, default=0.7, help="mean seconds between two faults")
    parser.add_argument("--drain", type=float, default=180, help="how long it may take to come to rest")
    parser.add_argument("--folder", default=None, help="where its files go")
    parser.add_argument("--keep", action="store_true", help="keep the folder, also after a clean run")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
