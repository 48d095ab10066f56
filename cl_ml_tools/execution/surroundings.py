"""What a plugin may change of its process although the next job, and the worker, need it as it was."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

WORKER_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""What a worker and its pool processes listen to: shutdowns, soft time limits."""


@contextmanager
def kept_surroundings() -> Iterator[None]:
    """Around a plugin's code: afterwards the working directory and the worker's signal handlers are as before.

    A child that the plugin has forked has no handlers of the worker's, so that signals end it. When it leaves the
    plugin's code it ends here: it must not go on as a second worker with the same claim.
    """
    process = os.getpid()
    handlers = _signal_handlers()
    _folder.enter()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if os.getpid() != process:
            _end_forked_child(error)
        _folder.leave()
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                logger.warning("a plugin has taken the handler of %s; the worker's is back", number.name)
                signal.signal(number, handler)


class _WorkingDirectory:
    """Remembers the working directory while any plugin runs; it belongs to the process, not to a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._home: str | None = None

    def enter(self) -> None:
        with self._lock:
            if self._running == 0:
                self._home = _current_folder()
            self._running += 1

    @property
    def is_in_use(self) -> bool:
        """Whether a plugin runs. Needs no lock, which a forked child could wait for in vain."""
        return self._running > 0

    def leave(self) -> None:
        with self._lock:
            self._running -= 1
            if self._home is None or _current_folder() == self._home:
                return
            try:
                os.chdir(self._home)
                logger.warning("a plugin has changed the working directory; it is %s again", self._home)
            except OSError:
                logger.exception("a plugin has changed the working directory, and there is no way back")


_folder = _WorkingDirectory()


def _forget_handlers() -> None:
    """In a forked child: without this a ``multiprocessing.Pool`` of a plugin on the solo pool never ends, since its
    processes take their ``SIGTERM`` for a warm shutdown."""
    if _folder.is_in_use:
        for number, handler in _signal_handlers().items():
            if callable(handler) and handler is not signal.default_int_handler:
                signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_handlers)


def _current_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - asked for twice a job, and a Path is made slowly
    except OSError:  # it was removed
        return None


def _signal_handlers() -> dict[signal.Signals, Callable[[int, Any], Any] | int]:
    """The worker's handlers that can be set again: only the main thread may, and only those set from Python."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in WORKER_SIGNALS if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in handlers.items() if handler is not None}


def _end_forked_child(error: BaseException | None) -> NoReturn:
    code = 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    elif error is None:
        logger.error("a process that a plugin has forked came back from the plugin's code; it ends")
    else:
        logger.error("a process that a plugin has forked failed; it ends", exc_info=error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or none
            continue
    os._exit(code)
