"""Follows jobs in Redis: one connection tails the stream of events for all watchers of a process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cl_ml_tools.common.job_watcher import JobEvent
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.stores._keys import KeyNames

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 5.0
"""How long the tail waits for an event before it asks again."""

REPLAY_EVENTS = 20_000
"""How far a resumed watch looks back before it begins with a snapshot instead."""


class RedisJobWatcher:
    """A `cl_ml_tools.common.job_watcher.JobWatcher` for one event loop.

    The connections are opened by the first watch and closed by `close`.

    Args:
        url: the server of the records, as redis-py reads it.
        prefix: first part of all key names.
        timeout_seconds: longest wait for one answer.
    """

    def __init__(self, url: str, *, prefix: str = "cl_ml_tools", timeout_seconds: float = 2.0) -> None:
        self._keys = KeyNames(prefix)
        self._timeout_seconds = timeout_seconds
        options: dict[str, Any] = {
            "decode_responses": True,
            "socket_connect_timeout": timeout_seconds,
            "protocol": 2,
            "client_name": "cl_ml_tools",
        }
        self._client = Redis.from_url(url, socket_timeout=timeout_seconds, **options)
        self._tail_client = Redis.from_url(url, socket_timeout=BLOCK_SECONDS + timeout_seconds, **options)
        # A handful of connections serves any number of watchers.
        self._reading = asyncio.Semaphore(4)
        self._starting = asyncio.Lock()
        self._mailboxes: dict[str, set[_Mailbox]] = {}
        self._position: str | None = None
        self._tail_task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End all watches and close the connections."""
        # Again and again: on Python 3.11 redis-py's asyncio.wait_for may swallow a cancellation.
        while self._tail_task is not None and not self._tail_task.done():
            self._tail_task.cancel()
            await asyncio.wait([self._tail_task], timeout=0.1)
        for mailboxes in self._mailboxes.values():
            for mailbox in mailboxes:
                mailbox.close()
        await self._client.aclose()
        await self._tail_client.aclose()

    async def watch(self, job_id: str, *, after: str | None = None) -> AsyncIterator[JobEvent]:
        """See `cl_ml_tools.common.job_watcher.JobWatcher.watch`."""
        mailbox = _Mailbox()
        self._mailboxes.setdefault(job_id, set()).add(mailbox)
        try:
            # The mailbox is open and the tail reads before the record is looked at: nothing falls between.
            await self._start_tail()
            last = after
            while True:
                snapshot = await self._snapshot(job_id)
                if snapshot is None:
                    return
                if last is not None and _is_newer(last, snapshot.event_id):
                    # No event of this record: made up, or of a record that is gone.
                    last = None
                for event in [*await self._missed(job_id, last, snapshot.event_id), snapshot]:
                    if _is_newer(event.event_id, last):
                        yield event
                        last = event.event_id
                if snapshot.is_last:
                    return
                async for event in mailbox.events():
                    if _is_newer(event.event_id, last):
                        yield event
                        last = event.event_id
                    if event.is_last:
                        return
                if mailbox.closed:
                    return
        finally:
            self._mailboxes[job_id].discard(mailbox)
            if not self._mailboxes[job_id]:
                del self._mailboxes[job_id]

    async def _start_tail(self) -> None:
        async with self._starting:
            if self._tail_task is None or self._tail_task.done():
                newest = await self._ask(lambda: self._client.xrevrange(self._keys("events"), count=1))
                self._position = newest[0][0] if newest else "0-0"
                self._tail_task = asyncio.create_task(self._tail(), name="cl_ml_tools-events")

    async def _tail(self) -> None:
        events = self._keys("events")
        while True:
            try:
                reply = await self._tail_client.xread(
                    {events: self._position or "0-0"}, count=500, block=int(BLOCK_SECONDS * 1000)
                )
            except RedisError as error:
                logger.warning("cannot follow the events, trying again: %s", error)
                await self._wait_for_server()
                # The stream may have been trimmed meanwhile: everybody looks at the record again.
                self._interrupt_all()
                continue
            for _, entries in cast("list[tuple[str, list[tuple[str, dict[str, str]]]]]", reply or []):
                for event_id, fields in entries:
                    self._position = event_id
                    self._hand_out(event_id, fields)

    async def _wait_for_server(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                await self._tail_client.ping()
            except RedisError as error:
                logger.debug("still cannot follow the events: %s", error)
            else:
                return

    def _hand_out(self, event_id: str, fields: dict[str, str]) -> None:
        mailboxes = self._mailboxes.get(fields.get("j", ""), ())
        if not mailboxes:
            return
        try:
            event = _event(event_id, fields)
        except (KeyError, ValueError):
            # Of another version, say. Its watchers look at the record instead.
            logger.exception("an event cannot be read: %s %s", event_id, fields)
            for mailbox in mailboxes:
                mailbox.interrupt()
            return
        for mailbox in mailboxes:
            mailbox.put(event)

    def _interrupt_all(self) -> None:
        for mailboxes in self._mailboxes.values():
            for mailbox in mailboxes:
                mailbox.interrupt()

    async def _snapshot(self, job_id: str) -> JobEvent | None:
        names = ["status", "progress", "event_id", "deleted"]
        status, progress, event_id, deleted = await self._ask(
            lambda: self._client.hmget(self._keys("job", job_id), names)
        )
        if status is None or deleted:
            return None
        return JobEvent(event_id, job_id, JobStatus(status), int(progress))

    async def _missed(self, job_id: str, after: str | None, until: str) -> list[JobEvent]:
        """What happened to a job between two events, when the stream still reaches back that far."""
        if after is None or not _is_newer(until, after):
            return []
        events = self._keys("events")
        oldest = await self._ask(lambda: self._client.xrange(events, count=1))
        if not oldest or _is_newer(oldest[0][0], after):
            return []
        missed: list[JobEvent] = []
        position = after
        for _ in range(REPLAY_EVENTS // 1000):
            entries = await self._ask(
                partial(self._client.xrange, events, min=f"({position}", max=until, count=1000)
            )
            missed += [_event(event_id, fields) for event_id, fields in entries if fields["j"] == job_id]
            if len(entries) < 1000:
                return missed
            position = entries[-1][0]
        return []

    async def _ask(self, act: Callable[[], Any]) -> Any:
        """What the server answers. The wait for one of the few connections counts."""
        try:
            async with asyncio.timeout(2 * self._timeout_seconds), self._reading:
                return await act()
        except (RedisError, TimeoutError) as error:
            raise StoreUnavailableError(f"Redis does not answer: {error}") from error


class _Mailbox:
    """The events of one watch that it has not taken yet; progress is overwritten by later progress."""

    def __init__(self) -> None:
        self._waiting: list[JobEvent] = []
        self._filled = asyncio.Event()
        self._interrupted = False
        self.closed = False

    def put(self, event: JobEvent) -> None:
        if self._waiting and self._waiting[-1].status is event.status and not event.deleted:
            self._waiting[-1] = event
        else:
            self._waiting.append(event)
        self._filled.set()

    def interrupt(self) -> None:
        """End `events`: some may be missing, the record has to be looked at again."""
        self._interrupted = True
        self._filled.set()

    def close(self) -> None:
        self.closed = True
        self.interrupt()

    async def events(self) -> AsyncIterator[JobEvent]:
        """Events as they come, until an interrupt."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                yield event
            if self._interrupted:
                self._interrupted = False
                return


def _event(event_id: str, fields: dict[str, str]) -> JobEvent:
    return JobEvent(event_id, fields["j"], JobStatus(fields["s"]), int(fields["p"]), "d" in fields)


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)


def _is_newer(event_id: str, than: str | None) -> bool:
    return than is None or _order(event_id) > _order(than)
