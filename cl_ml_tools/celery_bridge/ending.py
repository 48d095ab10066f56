"""Ending a process of the pool, and what it has started."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

TERM_SECONDS = 1.0
"""How long a process that is told to end (SIGTERM) has to clean up, before it is killed."""


class _Started(NamedTuple):
    """A process, told from a later one that has got its number."""

    process: int
    begin: str


class Ending:
    """The end of a process that does not end by itself: SIGTERM, which its code sees as ``SystemExit``, then SIGKILL.

    What it has started is killed with it, as far as that is its child, or a child's. They are found on Linux only:
    elsewhere programs that a plugin has started live on.
    """

    def __init__(self, process: int) -> None:
        self._process = process
        self._children: set[_Started] = set()
        self._kill_at = time.monotonic() + TERM_SECONDS

    def begin(self) -> None:
        """Tell it to end."""
        self._look()
        _send(self._process, signal.SIGTERM)

    def go_on(self) -> None:
        """Kill it when its time is over; to be called again as long as it lives."""
        self._look()
        if time.monotonic() >= self._kill_at:
            _send(self._process, signal.SIGKILL)
            self.finish()

    def finish(self) -> None:
        """Kill what is left of its children, once it is gone."""
        for started in self._children:
            if _begin_of(started.process) == started.begin:
                logger.warning(
                    "ending process %d, which process %d has started", started.process, self._process
                )
                _send(started.process, signal.SIGKILL)

    def _look(self) -> None:
        self._children.update(_children_of(self._process))


def _send(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def _children_of(process: int) -> Iterator[_Started]:
    """The children of a process, and theirs."""
    by_parent: dict[int, list[_Started]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _stat(entry)) is not None:
            by_parent.setdefault(int(fields[1]), []).append(_Started(int(entry.parent.name), fields[19]))
    found = list(by_parent.get(process, []))
    while found:
        started = found.pop()
        yield started
        found += by_parent.get(started.process, [])


def _begin_of(process: int) -> str | None:
    fields = _stat(Path(f"/proc/{process}/stat"))
    # A zombie needs no end.
    return None if fields is None or fields[0] == "Z" else fields[19]


def _stat(path: Path) -> list[str] | None:
    """What proc(5) tells behind the name, which may hold anything: state, parent, ..., start time as the twentieth."""
    try:
        return path.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return None
