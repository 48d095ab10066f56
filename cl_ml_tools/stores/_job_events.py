"""Events of jobs on their way from the stream to those who watch."""

import asyncio
from collections.abc import AsyncIterator

from cl_ml_tools.common.job_watcher import JobEvent
from cl_ml_tools.common.schemas import JobStatus

MAX_WAITING = 10_000
"""How many events wait for one watch that does not take them; beyond, it reads them again from the stream."""


def read_event(event_id: str, fields: dict[str, str]) -> JobEvent:
    """The event that an entry of the stream holds.

    Raises:
        KeyError: a field is missing.
        ValueError: a field cannot be read.
    """
    return JobEvent(event_id, fields["j"], JobStatus(fields["s"]), int(fields["p"]), "d" in fields)


def is_newer(event_id: str, than: str | None) -> bool:
    """Whether an event comes after another; after None everything does."""
    return than is None or event_order(event_id) > event_order(than)


def event_order(event_id: str) -> tuple[int, int]:
    """An event's place in the order of all."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)


class Mailbox:
    """The events of one watch that it has not taken yet; a job's progress is overwritten by its later progress."""

    def __init__(self) -> None:
        self._waiting: dict[str, JobEvent] = {}
        self._latest: dict[str, JobEvent] = {}
        self._filled = asyncio.Event()
        self._interrupted = False
        self.closed = False

    def put(self, event: JobEvent) -> None:
        """Add an event; later ones have greater ids."""
        before = self._latest.get(event.job_id)
        if before is not None and before.status is event.status and not event.deleted:
            del self._waiting[before.event_id]
        self._waiting[event.event_id] = self._latest[event.job_id] = event
        if len(self._waiting) > MAX_WAITING:
            self._waiting, self._latest = {}, {}
            self.interrupt()
        self._filled.set()

    def interrupt(self) -> None:
        """End `events`: some may be missing, the record or the stream has to be looked at again."""
        self._interrupted = True
        self._filled.set()

    def close(self) -> None:
        """End `events` for good."""
        self.closed = True
        self.interrupt()

    async def events(self) -> AsyncIterator[JobEvent]:
        """Events as they come, until an interrupt."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            waiting, self._waiting, self._latest = self._waiting, {}, {}
            for event in waiting.values():
                yield event
            if self._interrupted:
                self._interrupted = False
                return
