"""What it costs when many watch: one process whose watchers follow a job each, as the master's SSE clients do."""

import asyncio
import statistics
import time

from benchmarks.finished_job import CREATOR, LEASE_SECONDS, OWNER, new_job
from benchmarks.reporting import Figures, Spread
from cl_ml_tools.common.job_leases import Claim
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_watcher import RedisJobWatcher

TOKEN = "0123456789abcdef"
SECONDS = 60.0


def watching(watchers: int, events: int) -> Figures:
    """Delay from a report to its watcher, for one event at a time; and processor time of an event."""
    with EmbeddedRedis() as server, RedisJobStore(server.redis_url) as store:
        return asyncio.run(_watching(server.redis_url, store, watchers, events))


async def _watching(url: str, store: RedisJobStore, watchers: int, events: int) -> Figures:
    job_ids = [_running(store) for _ in range(watchers)]
    watcher = RedisJobWatcher(url)
    heard: asyncio.Queue[tuple[str, int, float]] = asyncio.Queue()

    async def follow(job_id: str) -> None:
        async for event in watcher.watch(job_id):
            heard.put_nowait((job_id, event.progress, time.perf_counter()))

    followers = [asyncio.create_task(follow(job_id)) for job_id in job_ids]
    for _ in followers:  # each begins with the state of its job
        await asyncio.wait_for(heard.get(), SECONDS)
    delays, reports = [], []
    cpu = time.process_time()
    for number in range(events):
        job_id, progress = job_ids[number * 7 % watchers], 1 + number // watchers
        begin = time.perf_counter()
        await asyncio.to_thread(store.report, job_id, token=TOKEN, progress=progress)
        reports.append((time.perf_counter() - begin) * 1e6)
        who, what, at = await asyncio.wait_for(heard.get(), SECONDS)
        assert (who, what) == (job_id, progress), "no event is missed, and none comes to others"
        delays.append((at - begin) * 1000)
    used = (time.process_time() - cpu) / events * 1e6
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    await watcher.close()
    p95 = statistics.quantiles(delays, n=20)[-1]
    return {
        "report_us": Spread.of([statistics.median(reports)]),
        "report_to_watcher_ms": Spread(statistics.median(delays), min(delays), p95),
        "process_cpu_us_per_event": Spread.of([used]),
    }


def _running(store: RedisJobStore) -> str:
    job = new_job()
    dispatch = store.add(job, created_by=CREATOR)
    claim = store.claim(
        job.job_id, token=TOKEN, owner=OWNER, sequence=dispatch.sequence, lease_seconds=LEASE_SECONDS
    )
    assert isinstance(claim, Claim)
    return job.job_id
