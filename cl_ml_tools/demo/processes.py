"""Processes that end with the one that started them (unless it is killed), and signals that wait for it."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from cl_ml_tools.errors import DemoError

_STOP_SECONDS = 8.0
_POLL_SECONDS = 0.02
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class OrderlyExit:
    """Turns the first SIGINT, SIGTERM or SIGHUP while entered into SystemExit(128 + its number).

    Later ones do nothing, so whoever enters cleans up in a ``finally``, in a bounded time. A signal that is
    ignored already (as under nohup) stays so. For the main thread only.
    """

    def __init__(self) -> None:
        self._previous: dict[int, object] = {}
        self._holds = 0
        self._signal: int | None = None
        self._raised = False

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it is what signal() returned

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait until the end of the block, so that nothing started in it is lost."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._raise_if_due()

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._signal = self._signal or number
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._signal is not None and not self._holds and not self._raised:
            self._raised = True
            raise SystemExit(128 + self._signal)


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours, the head of its own session, and the file that it logs to."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def log_tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Children:
    """Starts processes and stops them all, with whatever they have started themselves."""

    def __init__(self, exit_: OrderlyExit) -> None:
        """Start nothing yet.

        Args:
            exit_: keeps signals out while a process is started or stopped.
        """
        self._exit = exit_
        self._children: list[Child] = []
        self._logs: Path | None = None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a process of that name; its output goes to a log file, which is there until `stop`."""
        with self._exit.held():
            if self._logs is None:
                self._logs = Path(tempfile.mkdtemp(prefix="cl_ml_tools-logs-"))
                # For a signal that comes when the caller is just about to stop.
                atexit.register(self.stop)
            log = self._logs / f"{name}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A Ctrl-C in the terminal is ours: we stop them in order.
                    start_new_session=True,
                )
            child = Child(name, process, log)
            self._children.append(child)
        return child

    def __getitem__(self, name: str) -> Child:
        return next(child for child in self._children if child.name == name)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def check(self) -> None:
        """Return if all are alive.

        Raises:
            DemoError: one has ended; the message names it and shows the end of its log.
        """
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                raise DemoError(f"the {child.name} {how}. The end of its log:\n{child.log_tail()}")

    def stop(self) -> None:
        """Ask all to end, wait a bounded time, then end them by force; harmless when repeated."""
        with self._exit.held():
            for child in self._children:
                child.process.terminate()
            deadline = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < deadline and any(
                child.process.poll() is None for child in self._children
            ):
                time.sleep(_POLL_SECONDS)
            while self._children:
                _end_session(self._children.pop().process)
            if self._logs is not None:
                shutil.rmtree(self._logs)
                self._logs = None
            atexit.unregister(self.stop)


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    # What ended in order has ended its own children; what crashed or hangs has left them behind.
    if process.poll() not in (0, -signal.SIGTERM):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()
