"""Follows jobs in Redis: one connection tails the stream of events for all watchers of a process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cl_ml_tools.common.job_watcher import JobEvent
from cl_ml_tools.stores._event_history import EventHistory
from cl_ml_tools.stores._job_events import Mailbox, is_newer, read_event
from cl_ml_tools.stores._keys import KeyNames

logger = logging.getLogger(__name__)

BLOCK_SECONDS = 5.0
"""How long the tail waits for an event before it asks again."""

_Address = tuple[str, str]
_EVERYBODY: _Address = ("everybody", "")


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
        options: dict[str, Any] = {
            "decode_responses": True,
            "socket_connect_timeout": timeout_seconds,
            "protocol": 2,
            "client_name": "cl_ml_tools",
        }
        self._client = Redis.from_url(url, socket_timeout=timeout_seconds, **options)
        self._tail_client = Redis.from_url(url, socket_timeout=BLOCK_SECONDS + timeout_seconds, **options)
        self._history = EventHistory(self._client, self._keys, timeout_seconds)
        self._starting = asyncio.Lock()
        self._mailboxes: dict[_Address, set[Mailbox]] = {}
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
        with self._mailbox(("job", job_id)) as mailbox:
            # The mailbox is open and the tail reads before the record is looked at: nothing falls between.
            await self._start_tail()
            last = after
            while True:
                snapshot = await self._history.snapshot(job_id)
                if snapshot is None:
                    return
                if last is not None and is_newer(last, snapshot.event_id):
                    # No event of this record: made up, or of a record that is gone.
                    last = None
                missed = await self._history.of_job(job_id, last, snapshot.event_id)
                for event in [*missed, snapshot]:
                    if is_newer(event.event_id, last):
                        yield event
                        last = event.event_id
                if snapshot.is_last:
                    return
                async for event in mailbox.events():
                    if is_newer(event.event_id, last):
                        yield event
                        last = event.event_id
                    if event.is_last:
                        return
                if mailbox.closed:
                    return

    async def position(self) -> str:
        """See `cl_ml_tools.common.job_watcher.JobsWatcher.position`."""
        return await self._history.newest_id()

    async def watch_jobs(
        self, *, after: str, created_by: str | None, of_anybody: bool = False
    ) -> AsyncIterator[JobEvent]:
        """See `cl_ml_tools.common.job_watcher.JobsWatcher.watch_jobs`."""
        address = _EVERYBODY if of_anybody else ("creator", created_by or "")

        def is_wanted(fields: dict[str, str]) -> bool:
            return of_anybody or fields.get("c", "") == (created_by or "")

        with self._mailbox(address) as mailbox:
            await self._start_tail()
            last = after
            while not mailbox.closed:
                newest = await self._history.newest_id()
                if is_newer(last, newest):
                    # No event of this stream: made up, or of a server that was emptied.
                    last = newest
                missed = await self._history.of_jobs(last, newest, is_wanted)
                if missed is None:
                    missed = await self._history.changed_since(
                        last, created_by=created_by, of_anybody=of_anybody
                    )
                for event in missed:
                    yield event
                    last = event.event_id
                async for event in mailbox.events():
                    if is_newer(event.event_id, last):
                        yield event
                        last = event.event_id

    @contextmanager
    def _mailbox(self, address: _Address) -> Iterator[Mailbox]:
        mailbox = Mailbox()
        self._mailboxes.setdefault(address, set()).add(mailbox)
        try:
            yield mailbox
        finally:
            self._mailboxes[address].discard(mailbox)
            if not self._mailboxes[address]:
                del self._mailboxes[address]

    async def _start_tail(self) -> None:
        async with self._starting:
            if self._tail_task is None or self._tail_task.done():
                self._position = await self._history.newest_id()
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
        mailboxes = [
            mailbox
            for address in (("job", fields.get("j", "")), ("creator", fields.get("c", "")), _EVERYBODY)
            for mailbox in self._mailboxes.get(address, ())
        ]
        if not mailboxes:
            return
        try:
            event = read_event(event_id, fields)
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
