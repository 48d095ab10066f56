"""Spares callers the wait for a server that has just let others wait in vain."""

import threading
import time

from cl_ml_tools.errors import StoreNotAskedError


class CircuitBreaker:
    """Opens when a server did not answer in time; then one caller after the other tries it, the rest are refused.

    Without it a hung server takes all threads of a web process, each for the whole timeout.

    Args:
        open_seconds: how long everybody is refused after a failed try.
    """

    def __init__(self, open_seconds: float) -> None:
        self._open_seconds = open_seconds
        self._lock = threading.Lock()
        self._try_again_at = 0.0

    def enter(self) -> None:
        """Return when the call may be made.

        Raises:
            StoreNotAskedError: it may not, or not yet.
        """
        # Closed nearly always: that is looked at without the lock.
        if self._try_again_at == 0.0:
            return
        with self._lock:
            now = time.monotonic()
            if now < self._try_again_at:
                raise StoreNotAskedError("Redis did not answer a moment ago; it is asked again soon")
            if self._try_again_at == 0.0:
                return
            # This caller tries it. The others wait for what comes of that, or for the next turn.
            self._try_again_at = now + self._open_seconds

    def succeeded(self) -> None:
        """The server has answered: everybody may call."""
        self._try_again_at = 0.0

    def timed_out(self) -> None:
        """The server has not answered in time."""
        with self._lock:
            self._try_again_at = time.monotonic() + self._open_seconds
