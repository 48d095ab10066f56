"""Redis, a worker and the master, running together on this machine for a while."""

import hashlib
import importlib.util
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cl_ml_tools.demo.master_client import MasterClient
from cl_ml_tools.demo.processes import Children, OrderlyExit
from cl_ml_tools.errors import DemoError
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

_HOST = "127.0.0.1"
_USER = "cl_ml_tools-demo"
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05


class LocalStack:
    """Starts what is needed to run jobs here, and stops all that it started.

    Redis is the one that ``CL_ML_TOOLS_REDIS_URL`` names, else a private one.

    Attributes:
        url: of the master.
        redis_url: for redis-py; only once started.
        storage_dir: where the files of jobs are kept, absolute.
    """

    def __init__(self, exit_: OrderlyExit, *, port: int | None = None, keep_records: bool = False) -> None:
        """Start nothing yet.

        Args:
            exit_: keeps signals out while something is started or stopped.
            port: of the master; None takes a free one.
            keep_records: whether a private Redis keeps the jobs, beside their files, for the next start. If not,
                the files are in ``demo`` under the storage's directory.

        Raises:
            SettingsError: a setting in the environment cannot be used.
            DemoError: the port is taken, or a package is missing.
        """
        _check_packages()
        settings = Settings.from_environment()
        self.storage_dir = settings.storage_dir.expanduser().resolve()
        self._exit = exit_
        self._port = _free_port(port)
        self._embedded: EmbeddedRedis | None = None
        if not os.environ.get("CL_ML_TOOLS_REDIS_URL"):
            if not keep_records:
                # Files whose record goes must not lie among those of an installation that stays.
                self.storage_dir /= "demo"
            self._embedded = EmbeddedRedis(self.storage_dir / "redis" if keep_records else None)
        # Where users need a token, so do we: one that only this process knows.
        self._api_tokens = settings.api_tokens
        self._token = secrets.token_urlsafe() if settings.api_tokens else None
        self.url = f"http://{_HOST}:{self._port}"
        self.redis_url = settings.redis_url
        self._children = Children(exit_)
        self._node = f"local-{os.getpid()}@{socket.gethostname()}"

    def start(self) -> None:
        """Start everything, and return when the worker and the master are ready.

        Raises:
            EmbeddedRedisError: no Redis can be started.
            DemoError: something does not get ready; the message shows its log.
        """
        environment = dict(os.environ)
        if self._embedded is not None:
            with self._exit.held():
                self._embedded.start()
            self.redis_url = self._embedded.redis_url
            # Celery prefers this one to what an app is configured with.
            environment.pop("CELERY_BROKER_URL", None)
            if not environment.get("CL_ML_TOOLS_BROKER_URL"):
                environment["CL_ML_TOOLS_BROKER_URL"] = self._embedded.broker_url
        else:
            _check_redis(self.redis_url)
        environment["CL_ML_TOOLS_REDIS_URL"] = self.redis_url
        environment["CL_ML_TOOLS_STORAGE_DIR"] = str(self.storage_dir)
        if self._token is not None:
            digest = hashlib.sha256(self._token.encode()).hexdigest()
            environment["CL_ML_TOOLS_API_TOKENS"] = f"{_USER}:{digest},{self._api_tokens}"
        # Asking other nodes for news costs a second, and there is nothing that we want to know.
        worker = (
            f"-A cl_ml_tools worker -c 2 -n {self._node} --loglevel INFO --without-mingle --without-gossip"
        )
        # Whoever still follows a job must not hold up the end.
        master = f"--factory --host {_HOST} --port {self._port} --timeout-graceful-shutdown 2"
        master += " --http cl_ml_tools.web.slow_headers:HeaderTimeout"
        for name, module, options in (
            ("worker", "celery", worker),
            ("master", "uvicorn", f"cl_ml_tools.app:create_app {master}"),
        ):
            self._children.start(name, [sys.executable, "-m", module, *options.split()], environment)
        self._wait_until_ready()

    def check(self) -> None:
        """Return if all that was started is alive.

        Raises:
            DemoError: something has ended; the message names it and shows the end of its log.
        """
        self._children.check()
        if self._embedded is not None and not self._embedded.is_alive:
            raise DemoError("the private Redis has ended, so nothing can go on; start again")

    def stop(self) -> None:
        """Stop all that was started, in a bounded time; harmless when repeated."""
        with self._exit.held():
            self._children.stop()
            if self._embedded is not None:
                self._embedded.stop()

    @property
    def logs(self) -> list[Path]:
        """What the worker and the master log to; gone after `stop`."""
        return [child.log for child in self._children]

    def log_tail(self, name: str) -> str:
        """The end of what the ``worker`` or the ``master`` has logged."""
        return self._children[name].log_tail()

    def client(self) -> MasterClient:
        """A client of the master."""
        return MasterClient(_HOST, self._port, token=self._token)

    def _wait_until_ready(self) -> None:
        worker = self._children["worker"]
        client = MasterClient(_HOST, self._port, timeout_seconds=5.0)
        deadline = time.monotonic() + _READY_SECONDS
        late = ["worker", "master"]
        while late:
            self.check()
            if "worker" in late and f"{self._node} ready." in worker.log.read_text(errors="replace"):
                late.remove("worker")
            if "master" in late and client.is_up():
                late.remove("master")
            if late and time.monotonic() > deadline:
                raise DemoError(
                    f"the {late[0]} is not ready after {_READY_SECONDS:.0f} s. The end of its log:\n"
                    f"{self.log_tail(late[0])}"
                )
            time.sleep(_POLL_SECONDS)


def without_password(url: str) -> str:
    """Return the URL as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None and "password=" not in parts.query:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"***@{host}", query="").geturl()


def _check_packages() -> None:
    missing = [name for name in ("fastapi", "uvicorn", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f'{", ".join(missing)} is not installed here: pip install "cl_ml_tools[all]"')


def _check_redis(url: str) -> None:
    client = redis.Redis.from_url(
        url, socket_timeout=3.0, socket_connect_timeout=3.0, retry=Retry(NoBackoff(), 0)
    )
    try:
        client.ping()
    except redis.RedisError as error:
        raise DemoError(
            f"the Redis at {without_password(url)} cannot be used ({error}). Start it, or unset "
            f"CL_ML_TOOLS_REDIS_URL to get a private one."
        ) from error
    finally:
        client.close()


def _free_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        # As the master will: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted or 0))
        except OSError as error:
            raise DemoError(
                f"port {wanted} cannot be used ({error.strerror}); take another with --port"
            ) from error
        return int(probe.getsockname()[1])
