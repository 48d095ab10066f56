"""The process of an embedded Redis: launched, found again, ended. Two locks in its directory say who is who.

``owner.lock`` is held by the process that will end the server. ``server.lock`` is inherited by the server
itself, which holds it for as long as it lives: so a new owner can tell a server that was left behind from
none, also while that one is still starting, and an end is seen without waiting for a child.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cl_ml_tools.errors import EmbeddedRedisError
from cl_ml_tools.stores._redis_server_program import find_redis_server

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
# The system's limit for a socket's path is 107 on Linux and 103 on macOS.
_SOCKET_PATH_BYTES = 103


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server that answers.

    Attributes:
        directory: its data, log and locks.
        socket: where it listens.
        pid: its process id.
        owner_lock: the lock of its owner when that is us, else None.
        child: its process when we launched it, else None.
    """

    directory: Path
    socket: Path
    pid: int
    owner_lock: int | None
    child: subprocess.Popen[bytes] | None


def start_server(directory: Path, *, keep: bool) -> RedisServer:
    """Launch the directory's server, take it over when its owner is gone, or join it; return when it answers.

    Args:
        directory: exists; there is one server for each.
        keep: whether data are written to disk.

    Raises:
        EmbeddedRedisError: it does not answer in time; what was launched is ended.
    """
    deadline = time.monotonic() + _START_SECONDS
    while (owner_lock := _try_lock(directory / "owner.lock")) is None:
        socket = _socket_in_use(directory)
        pid = _answering_process(socket)
        if pid is not None:
            return RedisServer(directory, socket, pid, owner_lock=None, child=None)
        _wait_a_moment(deadline, directory)
    child = None
    try:
        server_lock = _try_lock(directory / "server.lock")
        if server_lock is not None:
            try:
                child = _launch(directory, server_lock, keep=keep)
            finally:
                os.close(server_lock)
        socket = _socket_in_use(directory)
        while (pid := _answering_process(socket)) is None:
            if child is not None and child.poll() is not None:
                raise EmbeddedRedisError(f"the embedded Redis ended at its start:\n{_log_tail(directory)}")
            _wait_a_moment(deadline, directory)
    except BaseException:
        if child is not None:
            child.kill()
            child.wait()
            _remove_socket(directory)
        _release(owner_lock)
        raise
    return RedisServer(directory, socket, pid, owner_lock, child)


def end_server(server: RedisServer) -> None:
    """End a server that we own, gently first, and return when it is gone; a joined one goes on.

    Raises:
        EmbeddedRedisError: it does not end.
    """
    if server.owner_lock is None:
        return
    try:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            if server_is_alive(server):
                os.kill(server.pid, signal_number)
            deadline = time.monotonic() + _STOP_SECONDS
            while server_is_alive(server) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        if server_is_alive(server):
            raise EmbeddedRedisError(f"the embedded Redis, process {server.pid}, cannot be ended")
        if server.child is not None:
            server.child.wait()
        _remove_socket(server.directory)
    finally:
        _release(server.owner_lock)


def server_is_alive(server: RedisServer) -> bool:
    """Whether the server's process lives, whoever started it."""
    lock = _try_lock(server.directory / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is None


def _launch(directory: Path, server_lock: int, *, keep: bool) -> "subprocess.Popen[bytes]":
    program = find_redis_server()
    socket = directory / "redis.sock"
    _remove_socket(directory)
    if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
        socket = temporary_directory() / "redis.sock"
        # In one step, since those who join read it at any time.
        (directory / "socket_path.new").write_text(str(socket))
        (directory / "socket_path.new").replace(directory / "socket_path")
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "save": "",
        "appendonly": "yes" if keep else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    with (directory / "redis.log").open("wb") as log:
        return subprocess.Popen(
            [program, *(word for name, value in options.items() for word in (f"--{name}", value))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A Ctrl-C in the terminal must not end it before those who still need it.
            start_new_session=True,
            pass_fds=(server_lock,),
        )


def temporary_directory() -> Path:
    """Make a private directory whose path is short enough for a socket in it."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _SOCKET_PATH_BYTES - 40:
        base = "/tmp"  # noqa: S108 - mkdtemp makes it private
    return Path(tempfile.mkdtemp(prefix="cl_ml_tools-", dir=base))


def _socket_in_use(directory: Path) -> Path:
    pointer = directory / "socket_path"
    return Path(pointer.read_text()) if pointer.exists() else directory / "redis.sock"


def _remove_socket(directory: Path) -> None:
    socket = _socket_in_use(directory)
    socket.unlink(missing_ok=True)
    if socket.parent != directory:
        with contextlib.suppress(FileNotFoundError):  # whoever cleans temporary directories came first
            socket.parent.rmdir()
        (directory / "socket_path").unlink()


def _answering_process(socket: Path) -> int | None:
    """The process id of the server behind the socket once it serves commands, else None."""
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
    try:
        client.ping()
        return int(client.info("server")["process_id"])
    except (redis.ConnectionError, redis.TimeoutError):
        return None
    finally:
        client.close()


def _wait_a_moment(deadline: float, directory: Path) -> None:
    if time.monotonic() > deadline:
        raise EmbeddedRedisError(
            f"the Redis in {directory} does not answer within {_START_SECONDS:.0f} s. End it if it hangs "
            f"(fuser {directory}/server.lock tells its process id). Its log:\n{_log_tail(directory)}"
        )
    time.sleep(_POLL_SECONDS)


def _log_tail(directory: Path) -> str:
    log = directory / "redis.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else "(no log)"


def _try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock, or None when another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _release(lock: int) -> None:
    # Unlocked by name, since a forked child may hold a copy of the descriptor.
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
