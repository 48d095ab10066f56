"""A private Redis for development, the demo and the tests: no port, no configuration, one machine."""

import atexit
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from cl_ml_tools.broker_urls import broker_url_for
from cl_ml_tools.errors import EmbeddedRedisError
from cl_ml_tools.stores._redis_server import (
    RedisServer,
    end_server,
    server_is_alive,
    start_server,
    temporary_directory,
)


class EmbeddedRedis:
    """A Redis or Valkey server behind a unix socket, started and stopped by this object.

    Without a data directory the server is this object's alone, and `stop` leaves nothing of it.

    With one, data survive in an append-only file, forced to disk every second, and all who start on the same
    directory share one server: the first owns it, the others join. The owner's `stop` ends the server for
    all, a joiner's ends nothing.

    A process that ends without `stop` ends its server on the way out. One that is killed cannot: a server
    with a data directory is then taken over by whoever starts next, and one without runs on until somebody
    ends it. Not for Windows.
    """

    def __init__(self, data_dir: str | os.PathLike[str] | None = None) -> None:
        """Start nothing yet.

        Args:
            data_dir: where data are kept; made if need be. None keeps nothing.
        """
        self._data_dir = None if data_dir is None else Path(data_dir).expanduser().resolve()
        self._server: RedisServer | None = None
        self._starter = os.getpid()

    def start(self) -> None:
        """Start the server, join it or take it over; return when it answers.

        Raises:
            EmbeddedRedisError: no server program is found, the server does not start, or it is started.
        """
        if self._server is not None:
            raise EmbeddedRedisError("this embedded Redis is started already")
        self._starter = os.getpid()
        directory = self._data_dir or temporary_directory()
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._server = start_server(directory, keep=self._data_dir is not None)
        except BaseException:
            self._remove_if_temporary(directory)
            raise
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the server if it is ours, and return when it is gone; harmless when repeated.

        Raises:
            EmbeddedRedisError: the server cannot be ended.
        """
        server = self._server
        # A forked child has a copy of this object, but the server is its parent's.
        if server is None or self._starter != os.getpid():
            return
        self._server = None
        atexit.unregister(self.stop)
        end_server(server)
        self._remove_if_temporary(server.directory)

    @property
    def redis_url(self) -> str:
        """The URL for redis-py and ``CL_ML_TOOLS_REDIS_URL``; only while started."""
        return f"unix://{quote(str(self._started.socket))}?db=0"

    @property
    def broker_url(self) -> str:
        """The URL for Celery and ``CL_ML_TOOLS_BROKER_URL``; only while started."""
        return broker_url_for(self.redis_url)

    @property
    def pid(self) -> int:
        """The server's process id; only while started."""
        return self._started.pid

    @property
    def is_owner(self) -> bool:
        """Whether `stop` ends the server; only while started."""
        return self._started.owner_lock is not None

    @property
    def is_alive(self) -> bool:
        """Whether the server still runs; only while started."""
        return server_is_alive(self._started)

    @property
    def _started(self) -> RedisServer:
        if self._server is None:
            raise EmbeddedRedisError(
                "this embedded Redis is not started: call start() or enter it with `with`"
            )
        return self._server

    def _remove_if_temporary(self, directory: Path) -> None:
        if self._data_dir is None:
            shutil.rmtree(directory)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
