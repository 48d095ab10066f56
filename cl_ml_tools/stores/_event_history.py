"""What has happened to jobs: the stream of events read backwards, and the records behind it."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cl_ml_tools.common.job_watcher import JobEvent
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.stores._job_events import event_order, is_newer, read_event
from cl_ml_tools.stores._keys import KeyNames

REPLAY_EVENTS = 20_000
"""How far a resumed watch looks back before it begins with a snapshot instead."""

MAX_EVENTS = 100_000
"""How many events the stream keeps at least; see scripts/_prelude.lua."""

READERS = 4
"""How many connections read at one time; others wait."""

SNAPSHOT_JOBS = 10_000
"""How many jobs, the newest, are looked at when the stream does not reach back."""

_CHUNK = 1000
_STATE = ["status", "progress", "event_id", "created_by", "deleted"]


class EventHistory:
    """Reads events and records; a handful of connections serves any number of readers.

    Every method raises `cl_ml_tools.errors.StoreUnavailableError` when the server does not answer in time.

    Args:
        client: has a timeout of its own for each answer.
        keys: the names of the keys.
        timeout_seconds: half of the longest wait for an answer, the wait for a connection included.
    """

    def __init__(self, client: Redis, keys: KeyNames, timeout_seconds: float) -> None:
        self._client, self._keys = client, keys
        self._timeout_seconds = timeout_seconds
        self._reading = asyncio.Semaphore(READERS)

    async def newest_id(self) -> str:
        """The id of the newest event; ``0-0`` before there is any."""
        newest = await self._ask(lambda: self._client.xrevrange(self._keys("events"), count=1))
        return str(newest[0][0]) if newest else "0-0"

    async def snapshot(self, job_id: str) -> JobEvent | None:
        """How a job stands, as the event that brought it there; None when it is unknown or deleted."""
        ((_, event),) = await self._snapshots([job_id])
        return event

    async def of_job(self, job_id: str, after: str | None, until: str) -> list[JobEvent]:
        """What happened to a job between two events, when the stream still reaches back that far; else nothing."""
        if after is None or not is_newer(until, after):
            return []
        oldest = await self._ask(lambda: self._client.xrange(self._keys("events"), count=1))
        if not oldest or is_newer(oldest[0][0], after):
            return []
        return await self._between(after, until, lambda fields: fields["j"] == job_id) or []

    async def of_jobs(
        self, after: str, until: str, is_wanted: Callable[[dict[str, str]], bool]
    ) -> list[JobEvent] | None:
        """What happened to the wanted jobs between two events; None when the stream does not reach back that far."""
        if not is_newer(until, after):
            return []
        oldest = await self._ask(lambda: self._client.xrange(self._keys("events"), count=1))
        # A stream that was never full has lost nothing.
        if oldest and is_newer(oldest[0][0], after):
            length = await self._ask(lambda: self._client.xlen(self._keys("events")))
            if length >= MAX_EVENTS:
                return None
        return await self._between(after, until, is_wanted)

    async def changed_since(self, after: str, *, created_by: str | None, of_anybody: bool) -> list[JobEvent]:
        """How jobs stand that have changed after an event, in the order of the events that brought them there."""
        index = self._keys("creator", created_by) if created_by and not of_anybody else self._keys("jobs")
        changed: list[JobEvent] = []
        for first in range(0, SNAPSHOT_JOBS, _CHUNK):
            job_ids = await self._ask(partial(self._client.zrevrange, index, first, first + _CHUNK - 1))
            for creator, event in await self._snapshots(job_ids):
                is_theirs = of_anybody or creator == created_by
                if event is not None and is_theirs and is_newer(event.event_id, after):
                    changed.append(event)
            if len(job_ids) < _CHUNK:
                break
        return sorted(changed, key=lambda event: event_order(event.event_id))

    async def _between(
        self, after: str, until: str, is_wanted: Callable[[dict[str, str]], bool]
    ) -> list[JobEvent] | None:
        missed: list[JobEvent] = []
        position = after
        for _ in range(REPLAY_EVENTS // _CHUNK):
            entries = await self._ask(
                partial(
                    self._client.xrange, self._keys("events"), min=f"({position}", max=until, count=_CHUNK
                )
            )
            missed += [read_event(event_id, fields) for event_id, fields in entries if is_wanted(fields)]
            if len(entries) < _CHUNK:
                return missed
            position = entries[-1][0]
        return None

    async def _snapshots(self, job_ids: list[str]) -> list[tuple[str | None, JobEvent | None]]:
        """Of each job its creator, and how it stands; None when it is unknown or deleted."""

        async def read() -> Any:
            pipeline = self._client.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hmget(self._keys("job", job_id), _STATE)
            return await pipeline.execute()

        states = await self._ask(read) if job_ids else []
        found: list[tuple[str | None, JobEvent | None]] = []
        for job_id, (status, progress, event_id, creator, deleted) in zip(job_ids, states, strict=True):
            is_there = status is not None and not deleted
            event = JobEvent(event_id, job_id, JobStatus(status), int(progress)) if is_there else None
            found.append((creator, event))
        return found

    async def _ask(self, act: Callable[[], Any]) -> Any:
        """What the server answers. The wait for one of the few connections counts."""
        try:
            async with asyncio.timeout(2 * self._timeout_seconds), self._reading:
                return await act()
        except (RedisError, TimeoutError) as error:
            raise StoreUnavailableError(f"Redis does not answer: {error}") from error
