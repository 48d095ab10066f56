"""A RabbitMQ server of one's own: started, stopped, killed and started again without touching any other."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import psutil

INSTALL_HINT = "apt-get install -y --no-install-recommends rabbitmq-server"

# Debian's wrapper in /usr/sbin changes to another user and directory; the program behind it does not.
_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
_START_SECONDS = 90.0


def find_rabbitmq() -> Path | None:
    """The directory of RabbitMQ's programs, or None when it is not installed."""
    if (_PROGRAMS / "rabbitmq-server").exists():
        return _PROGRAMS
    found = shutil.which("rabbitmq-server")
    return Path(found).parent if found else None


class RabbitMQNode:
    """One server with a data directory, reached at `url`. Data survive `stop`, `kill` and another `start`.

    Args:
        directory: where its data and log are.
    """

    def __init__(self, directory: Path) -> None:
        programs = find_rabbitmq()
        assert programs is not None, f"RabbitMQ is not installed: {INSTALL_HINT}"
        self._programs = programs
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._port, distribution = _free_port(), _free_port()
        # Small: no web interface, no logs on disk beside this one, few schedulers.
        (directory / "rabbitmq.conf").write_text("log.file = false\nlog.console = true\n")
        (directory / "enabled_plugins").write_text("[].\n")
        self._variables = {
            **os.environ,
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"cl_ml_tools_{secrets.token_hex(4)}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Its URL for Celery."""
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    @property
    def pid(self) -> int:
        """The process of its virtual machine, a child of the script that starts it."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        return next(process.pid for process in family if process.name().startswith("beam"))

    def start(self) -> None:
        """Return when it answers."""
        with (self._directory / "rabbitmq.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "rabbitmq-server"],
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log_tail()
            assert time.monotonic() < end, self.log_tail()
            time.sleep(0.1)
        # It listens a moment before all of it is there.
        self.control("await_startup")

    def stop(self) -> None:
        """End it in order; return when it is gone."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGTERM)
        self._process.wait(60)

    def kill(self) -> None:
        """End it at once, as a power cut would; return when it is gone."""
        if self._process is None or self._process.poll() is not None:
            return
        family = psutil.Process(self._process.pid).children(recursive=True)
        for pid in (self._process.pid, *(process.pid for process in family)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def control(self, *words: str) -> str:
        """What ``rabbitmqctl`` says."""
        ended = subprocess.run(
            [self._programs / "rabbitmqctl", "-q", *words],
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def close_connections(self) -> None:
        """Cut every connection to it."""
        self.control("close_all_connections", "cut by a test")

    def log_tail(self) -> str:
        """The end of its log."""
        return (self._directory / "rabbitmq.log").read_text(errors="replace")[-3000:]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.settimeout(2)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
