"""Keeps a process from forking while one of our threads is at work.

A forked child has only the thread that forked, but every lock in the state it had: one that another thread
held (of an import, a connection pool, a log handler) stays locked in the child for ever. A prefork worker
forks at any time, to replace a pool process. Seen: a new pool process that hung in its first import.
"""

import os
import threading


class ForkGate:
    """``with gate:`` around a thread's work; a fork waits until it is done, so the work must be bounded.

    Make one for each module, not for each object: it lasts as long as the process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        os.register_at_fork(before=self._enter, after_in_parent=self._leave, after_in_child=self._renew)

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _enter(self) -> None:
        self._lock.acquire()

    def _leave(self) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()
