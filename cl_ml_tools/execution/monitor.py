"""The thread beside running jobs: writes their progress, extends their leases, hears of cancels."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol, Self

from cl_ml_tools.common.job_leases import JobLeases, Owner, RequeueCause, RunState
from cl_ml_tools.errors import JobStopped, StoreUnavailableError
from cl_ml_tools.fork_gate import ForkGate

logger = logging.getLogger(__name__)

# A plugin may fork while the monitor works.
_working = ForkGate()


def lease_clock() -> float:
    """Seconds by a clock that goes on while the machine sleeps, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


UNWRITTEN_SECONDS = 0.05
"""Progress is first written so long after the run's begin: that of a shorter one would be overtaken by its outcome."""

RETRY_SECONDS = 1.0
"""Pause before the store is asked again after it did not answer."""


class RunMonitor(Protocol):
    """Stands beside one run, from ``__enter__`` to ``__exit__``.

    Attributes:
        stop_state: why the run has to stop (``STOPPING`` or ``LOST``), or None.
        on_stop: called once when it has to, from any thread.
    """

    stop_state: RunState | None
    on_stop: Callable[[], None]

    def report(self, percent: float) -> None:
        """Note progress; raises `JobStopped` when the run has to stop."""
        ...

    def flush(self) -> None:
        """Write the last progress now, if it is not written yet."""
        ...

    def confirm(self) -> None:
        """The plugin is done: watch no time limit from now on, and make sure that the claim still holds.

        Where it does not, ``stop_state`` says so afterwards.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class LeasedRun:
    """The monitor of a run under a lease.

    Args:
        leases: the store of its lease.
        job_id: the job.
        token: the claim's token.
        owner: who runs it.
        claimed_at: when the claim was asked for, by `lease_clock`.
        lease_seconds: how long each extension lasts; extended every third of it.
        progress_interval_seconds: shortest time between two writes of progress.
        time_limit: after so many seconds the job is ended in ``error``, whatever the run does; None when
            somebody else watches it.

    Attributes:
        stop_state, on_stop: see `RunMonitor`.
    """

    def __init__(
        self,
        leases: JobLeases,
        *,
        job_id: str,
        token: str,
        owner: Owner,
        claimed_at: float,
        lease_seconds: float,
        progress_interval_seconds: float,
        time_limit: float | None = None,
    ) -> None:
        self._leases = leases
        self._job_id = job_id
        self._token = token
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._interval = progress_interval_seconds
        self._progress = 0
        self._written = 0
        self._ended = False
        self._next_write = time.monotonic() + UNWRITTEN_SECONDS
        self._next_extend = time.monotonic() + lease_seconds / 3
        self._sure_until = claimed_at + 0.9 * lease_seconds
        self._timing_out = threading.Lock()
        self._time_limit = time_limit
        self._time_out_at = math.inf if time_limit is None else time.monotonic() + time_limit
        self.stop_state: RunState | None = None
        self.on_stop: Callable[[], None] = lambda: None

    def report(self, percent: float) -> None:
        """Note progress; the monitor writes it soon. From any thread, as often as wanted.

        Values beyond 0 to 99 are cut, smaller ones than before and whatever is not a number are ignored.

        Raises:
            JobStopped: the run has to stop.
        """
        if self.stop_state is not None and not self._ended:
            raise JobStopped(f"job {self._job_id} must stop: {self.stop_state}")
        progress = read_percent(self._job_id, percent)
        if progress > self._progress and not self._ended:
            is_waiting = self._progress > self._written
            self._progress = progress
            if not is_waiting:
                _monitor().see(self)

    def flush(self) -> None:
        """Write the last progress now, if it is not written yet.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        if self._progress > self._written and self.stop_state is not RunState.LOST:
            progress = self._progress
            self._hear(self._leases.report(self._job_id, token=self._token, progress=progress))
            self._written = progress

    def __enter__(self) -> Self:
        _monitor().add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        _monitor().remove(self)

    def due(self) -> float:
        """When (``time.monotonic``) the monitor has something to do for this run."""
        waiting = self._progress > self._written and self.stop_state is not RunState.LOST
        due = min(self._next_extend, self._time_out_at)
        return min(due, self._next_write) if waiting else due

    def serve(self) -> None:
        """Do what is due. Called by the monitor's thread only."""
        now = time.monotonic()
        try:
            if now >= self._time_out_at:
                self._time_out()
                return
            if now >= self._next_extend:
                self._extend()
            if now >= self._next_write:
                self._next_write = now + self._interval
                self.flush()
        except Exception as error:
            self._next_extend = max(self._next_extend, now + RETRY_SECONDS)
            self._next_write = now + RETRY_SECONDS
            self._time_out_at = max(self._time_out_at, now + RETRY_SECONDS)
            if not isinstance(error, StoreUnavailableError):
                raise
            logger.warning("job %s cannot reach its record, trying again: %s", self._job_id, error)

    def confirm(self) -> None:
        """See `RunMonitor.confirm`.

        Raises:
            StoreUnavailableError: the claim is in doubt, and the store does not answer.
        """
        with self._timing_out:
            self._time_out_at = math.inf
        # Nobody can have taken the job before its lease could end, counted from when it was asked for.
        if lease_clock() < self._sure_until or self.stop_state is not None:
            return
        self._extend()

    def _extend(self) -> None:
        asked_at, sure_from = time.monotonic(), lease_clock()
        (state,) = self._leases.extend(
            self._owner.node, [(self._job_id, self._token)], lease_seconds=self._lease_seconds
        )
        self._next_extend = asked_at + self._lease_seconds / 3
        if state is RunState.CURRENT:
            self._sure_until = sure_from + 0.9 * self._lease_seconds
        self._hear(state)

    def _time_out(self) -> None:
        with self._timing_out:
            if self._time_out_at == math.inf:
                return
            self._leases.requeue(
                self._job_id,
                owner=self._owner,
                cause=RequeueCause.TIMED_OUT,
                detail=f"stopped at its time limit of {self._time_limit:g} s",
                token=self._token,
            )
            # The job is at its end. Its lease is let go; code that neither awaits nor reports goes on unheard.
            self._time_out_at = self._next_extend = math.inf
            self._hear(RunState.LOST)

    def _hear(self, state: RunState) -> None:
        if state in (RunState.STOPPING, RunState.LOST) and self.stop_state is None and not self._ended:
            logger.info("job %s is told to stop: %s", self._job_id, state)
            self.stop_state = state
            self.on_stop()


def read_percent(job_id: str, percent: object) -> int:
    """``percent`` cut to 0 to 99; 0 and a warning for what is no number."""
    try:
        return max(0, min(99, int(percent)))  # type: ignore[call-overload,no-any-return]  # or TypeError
    except (TypeError, ValueError, OverflowError):
        logger.warning("job %s reported %r as progress; a number is needed", job_id, percent)
        return 0


class _Monitor:
    """One daemon thread for all runs of a process, started with the first one."""

    def __init__(self) -> None:
        self._runs: set[LeasedRun] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # Until when the thread sleeps; while it is awake it looks at all runs before it sleeps again.
        self._sleeps_until = -math.inf

    def add(self, run: LeasedRun) -> None:
        with self._changed:
            self._runs.add(run)
            if self._thread is None or not self._thread.is_alive():
                self._sleeps_until = -math.inf
                self._thread = threading.Thread(target=self._loop, name="cl_ml_tools-monitor", daemon=True)
                self._thread.start()
        self.see(run)

    def remove(self, run: LeasedRun) -> None:
        with self._changed:
            self._runs.discard(run)

    def see(self, run: LeasedRun) -> None:
        """Have the thread look at a run that has become due sooner.

        It is not woken when it wakes in time: a hand-over of the GIL, twice a job, costs short jobs a tenth of
        their time.
        """
        with self._changed:
            if run.due() < self._sleeps_until:
                self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                due = min((run.due() for run in self._runs), default=math.inf)
                pause = None if due == math.inf else max(0.0, due - time.monotonic())
                if pause is None or pause > 0:
                    self._sleeps_until = due
                    self._changed.wait(pause)
                    self._sleeps_until = -math.inf
                now = time.monotonic()
                runs = [run for run in self._runs if run.due() <= now]
            for run in runs:
                try:
                    with _working:
                        run.serve()
                except Exception:  # the thread serves the other runs too
                    logger.exception("the monitor failed for a run")


_current: _Monitor | None = None
_current_lock = threading.Lock()


def _monitor() -> _Monitor:
    """This process's monitor."""
    global _current
    with _current_lock:
        if _current is None:
            _current = _Monitor()
        return _current


def _forget_monitor() -> None:
    """A forked child has neither the thread nor the lock's holder: it begins anew."""
    global _current, _current_lock
    _current = None
    _current_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_monitor)
