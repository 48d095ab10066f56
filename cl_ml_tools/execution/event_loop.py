"""Runs coroutines on an event loop that a thread keeps between jobs, and leaves nothing running on it."""

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_SECONDS = 5.0
"""How long a cancelled coroutine may take to end before its loop is given up."""

_local = threading.local()


def run_on_thread_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """What ``coroutine`` returns, run on this thread's own event loop.

    The loop is made at the first call and kept, so that clients bound to it can be kept too. Whatever breaks
    the run from outside (a signal's exception, say) also cancels and drains the coroutine: it never goes on
    during the next one. So are tasks that it has left behind.
    """
    runner: asyncio.Runner | None = getattr(_local, "runner", None)
    if runner is None:
        runner = _local.runner = asyncio.Runner()
    loop = runner.get_loop()
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)
    finally:
        if not _drain(loop):
            # Its tasks refuse to end. They stay on a loop that never runs again.
            _local.runner = None


def _drain(loop: asyncio.AbstractEventLoop) -> bool:
    """Cancel and await all tasks of a loop that stands still; False when some do not end in time."""
    left = asyncio.all_tasks(loop)
    if not left:
        return True
    for task in left:
        task.cancel()
    _, stuck = loop.run_until_complete(asyncio.wait(left, timeout=DRAIN_SECONDS))
    for task in left - stuck:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("a task that was left behind failed", exc_info=error)
    for task in stuck:
        logger.error("a task ignores its cancellation, its event loop is given up: %r", task)
    return not stuck
