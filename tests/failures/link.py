"""A connection between processes and a Redis server that a test can disturb."""

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from cl_ml_tools.broker_urls import broker_url_for


class Link:
    """Stands between processes and a server's unix socket: what goes through can be held, dropped, refused."""

    def __init__(self, redis_url: str) -> None:
        self._target = unquote(urlsplit(redis_url).path)
        self._folder = Path(tempfile.mkdtemp(prefix="cl_ml_tools-link-"))
        self._path = str(self._folder / "link.sock")
        self.redis_url = f"unix://{self._path}?db=0"
        self.broker_url = broker_url_for(self.redis_url)
        self.requests_held: list[bytes] = []
        self.replies_held: list[bytes] = []
        self._pass_requests = threading.Event()
        self._pass_replies = threading.Event()
        self._open: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._last_words = b""
        self._listener: socket.socket | None = None
        self.mend()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        shutil.rmtree(self._folder)

    def hold_requests(self) -> None:
        """Let nothing more through to the server: to the processes it hangs, and has heard nothing."""
        self._pass_requests.clear()

    def hold_replies(self) -> None:
        """Let nothing more through to the processes: to them the server hangs, but it does what it is told."""
        self._pass_replies.clear()

    def hold_replies_from(self, words: bytes) -> None:
        """`hold_replies`, beginning with the reply to the next request that has these words."""
        self._last_words = words

    def let_go(self) -> None:
        """Pass on what was held, and all that follows."""
        self._last_words = b""
        self._pass_requests.set()
        self._pass_replies.set()

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected any more, and all that was held is delivered."""
        return not self._open

    def forget(self) -> None:
        """Let nothing more through on the connections that are open, as a firewall does; new ones work."""
        self._forgotten |= self._open

    def cut(self) -> None:
        """Close all connections, drop what was held, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            Path(self._path).unlink()
            listener.close()
        for end in list(self._open):
            _close(end)
        self.let_go()

    def mend(self) -> None:
        """Begin, or begin again after `cut`."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        listener.listen(128)
        self._listener = listener
        self.requests_held.clear()
        self.replies_held.clear()
        self.let_go()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._open |= {client, server}
                server.connect(self._target)
                for source, target, held, gate in (
                    (client, server, self.requests_held, self._pass_requests),
                    (server, client, self.replies_held, self._pass_replies),
                ):
                    pump = (source, target, held, gate)
                    threading.Thread(target=self._pump, args=pump, daemon=True).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, held: list[bytes], gate: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if held is self.requests_held and self._last_words and self._last_words in chunk:
                    self.hold_replies()
                if not gate.is_set():
                    held.append(chunk)
                    gate.wait()
                if source not in self._forgotten:
                    target.sendall(chunk)
        for end in (source, target):
            _close(end)
            self._open.discard(end)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # not connected, or closed already
        end.shutdown(socket.SHUT_RDWR)
    end.close()
