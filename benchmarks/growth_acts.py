"""Times the acts of the store on a server as it stands: by the client's clock, and by the server's own count."""

import statistics
import time
import uuid
from collections.abc import Callable
from typing import Any

from benchmarks.finished_job import CREATOR, LEASE_SECONDS, OWNER, new_job, output_of
from cl_ml_tools.common.job_control import JobQuery
from cl_ml_tools.common.job_leases import Claim, Dispatch
from cl_ml_tools.recovery import recover
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery
from cl_ml_tools.stores.redis_search import find_jobs

HOUSEKEEPING = {"info", "config|resetstat", "config"}


class TimedStore:
    """One server with its records.

    Args:
        store: the records.
        any_id: gives the id of a record that is there, for any number.
        task_types: what a polling worker asks for.
    """

    def __init__(
        self, store: RedisJobStore, any_id: Callable[[int], str], task_types: list[str] | None = None
    ) -> None:
        self.store = store
        self._any_id = any_id
        self._task_types = task_types or ["image_resize"]
        self._recovery = RedisRecovery(
            store, lease_seconds=30, max_leases_lost=10, lost_message_seconds=3600, retention_days=30
        )

    def measure(self, count: int) -> dict[str, float]:
        """Do each act so often; ``<act>_us`` and ``<act>_server_us``. Leaves so many more finished jobs."""
        store = self.store
        figures: dict[str, float] = {}
        jobs = [new_job(self._task_types[0]) for _ in range(count)]
        tokens = {job.job_id: uuid.uuid4().hex[:16] for job in jobs}
        sequences: dict[str, int] = {}

        def add(number: int) -> None:
            dispatch = store.add(jobs[number], created_by=CREATOR)
            sequences[dispatch.job_id] = dispatch.sequence

        def claim(number: int) -> None:
            job_id = jobs[number].job_id
            answer = store.claim(
                job_id,
                token=tokens[job_id],
                owner=OWNER,
                sequence=sequences[job_id],
                lease_seconds=LEASE_SECONDS,
            )
            assert isinstance(answer, Claim), answer

        def report(number: int) -> None:
            job_id = jobs[number].job_id
            store.report(job_id, token=tokens[job_id], progress=50)

        def finish(number: int) -> None:
            job = jobs[number]
            store.finish(job.job_id, token=tokens[job.job_id], outcome=output_of(job))

        acts: dict[str, Callable[[int], object]] = {
            "get": lambda number: store.get(self._any_id(number * 7919)),
            "add": add,
            "claim": claim,
            "report": report,
            "finish": finish,
            "peek": lambda _: store.peek(self._task_types),
            "list": lambda _: find_jobs(store.scripts, JobQuery(of_anybody=True, limit=50)),
            "find": lambda _: find_jobs(store.scripts, JobQuery(created_by=CREATOR, limit=50)),
            "recover": lambda _: recover(self._recovery, _sent),
        }
        for name, act in acts.items():
            # The heavy ones answer with fifty records, or look at all lines.
            often = count if name not in ("list", "find", "recover") else max(3, count // 10)
            figures |= self._timed(name, act, often)
        return figures

    def _timed(self, name: str, act: Callable[[int], object], count: int) -> dict[str, float]:
        client = self.store.client
        client.config_resetstat()
        taken = []
        for number in range(count):
            begin = time.perf_counter()
            act(number)
            taken.append(time.perf_counter() - begin)
        stats: Any = client.info("commandstats")
        used = {key.removeprefix("cmdstat_"): value["usec"] for key, value in stats.items()}
        scripts = used.get("evalsha", 0) + used.get("eval", 0)
        # What scripts call is counted again by itself.
        server = scripts or sum(value for key, value in used.items() if key not in HOUSEKEEPING)
        return {f"{name}_us": statistics.median(taken) * 1e6, f"{name}_server_us": server / count}


def _sent(dispatch: Dispatch) -> bool:
    return True
