"""Runs coroutines on an event loop that a thread keeps between jobs, and leaves nothing running on it."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_SECONDS = 5.0
"""How long a cancelled coroutine may take to end before its loop is given up."""

_local = threading.local()


def run_on_thread_loop(
    coroutine: Coroutine[Any, Any, T], is_cancelled_by: Callable[[BaseException], bool] = lambda _: False
) -> T:
    """What ``coroutine`` returns, run on this thread's own event loop.

    The loop is made at the first call and kept, so that clients bound to it can be kept too. Whatever breaks
    the run from outside (a signal's exception, say) also cancels and drains the coroutine: it never goes on
    during the next one. So are tasks that it has left behind.

    Args:
        coroutine: what is run.
        is_cancelled_by: told of an exception that was raised in the loop and not in the coroutine; True cancels
            the coroutine, whose answer counts then, however long it takes. With False the exception goes up.
    """
    runner: asyncio.Runner | None = getattr(_local, "runner", None)
    if runner is None:
        runner = _local.runner = asyncio.Runner()
    loop = runner.get_loop()
    task = loop.create_task(coroutine)

    def on_stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A signal's exception that struck in one of the loop's callbacks comes here.
        error = context.get("exception")
        if error is not None and not task.done() and is_cancelled_by(error):
            task.cancel()
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(on_stray)
    try:
        try:
            return loop.run_until_complete(task)
        except BaseException as error:
            if task.done():
                if task.cancelled() or task.exception() is not None:
                    raise
                # It struck when the coroutine had just ended.
                return task.result()
            if not is_cancelled_by(error):
                raise
            task.cancel()
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
