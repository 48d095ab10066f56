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

WORKER_LOGGERS = ("cl_ml_tools", "celery")
"""How the names of the loggers begin that tell what becomes of jobs. The root is theirs, too."""


@contextmanager
def kept_surroundings() -> Iterator[None]:
    """Around a plugin's code: afterwards the working directory, the worker's signal handlers, its logging and the
    standard streams are as before.

    A child that the plugin has forked has no handlers of the worker's, so that signals end it. When it leaves the
    plugin's code it ends here: it must not go on as a second worker with the same claim.
    """
    process = os.getpid()
    handlers = _signal_handlers()
    _folder.enter()
    _log.enter()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if os.getpid() != process:
            _end_forked_child(error)
        # First, so that the others are heard.
        _log.leave()
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

_LoggerState = tuple[bool, int, bool, *tuple[logging.Handler, ...]]


class _Log:
    """Remembers how the process logs, and where it prints to, while any plugin runs; that belongs to the process, too.

    The last plugin to end puts it back: what is changed while others run may be theirs, for as long as they need it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._known = -1
        self._loggers: list[logging.Logger] = []
        self._disabled = logging.NOTSET
        self._states: list[_LoggerState] = []
        self._streams: tuple[Any, Any] = (None, None)

    def enter(self) -> None:
        with self._lock:
            if self._running == 0:
                self._remember()
            self._running += 1

    def leave(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running > 0:
                return
            changed = self._put_back()
            streams = self._put_streams_back()
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            logger.warning(
                "a plugin has changed the logging (%s%s); it is as before again", ", ".join(changed[:3]), more
            )
        if streams:
            logger.warning("a plugin has replaced %s; the worker's are back", " and ".join(streams))

    def _remember(self) -> None:
        known = logging.root.manager.loggerDict
        # Seldom, since it takes ten times as long as the rest.
        if len(known) != self._known:
            self._known = len(known)
            named = [log for name, log in list(known.items()) if name.startswith(WORKER_LOGGERS)]
            self._loggers = [logging.root, *(log for log in named if isinstance(log, logging.Logger))]
        self._disabled = logging.root.manager.disable
        self._states = _logger_states(self._loggers)
        self._streams = (sys.stdout, sys.stderr)

    def _put_back(self) -> list[str]:
        """Put the logging back; returns the names of what was changed."""
        changed: list[str] = []
        if logging.root.manager.disable != self._disabled:
            logging.disable(self._disabled)
            changed.append("logging.disable")
        states = _logger_states(self._loggers)
        if states == self._states:
            return changed
        for log, before, now in zip(self._loggers, self._states, states, strict=True):
            if before != now:
                log.disabled, level, log.propagate, *log.handlers[:] = before
                # Not by its attribute alone: whether a level is enabled is remembered elsewhere.
                log.setLevel(level)
                changed.append(log.name)
        return changed

    def _put_streams_back(self) -> list[str]:
        streams = zip(("stdout", "stderr"), self._streams, strict=True)
        changed = [(name, stream) for name, stream in streams if getattr(sys, name) is not stream]
        for name, stream in changed:
            setattr(sys, name, stream)
        return [f"sys.{name}" for name, _ in changed]


def _logger_states(loggers: list[logging.Logger]) -> list[_LoggerState]:
    return [(log.disabled, log.level, log.propagate, *log.handlers) for log in loggers]


_log = _Log()


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
