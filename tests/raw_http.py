"""Requests of HTTP byte by byte, as no client library would send them."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

BOUNDARY = "-----x"
MULTIPART = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
END = f"--{BOUNDARY}--\r\n".encode()
PATIENCE = 60.0
"""Seconds within which a server has to end what a client does not; nothing is measured by it."""


@dataclass(frozen=True)
class Answer:
    """What came back until the server closed; status 0 when nothing did."""

    status: int
    text: str

    @property
    def is_refusal(self) -> bool:
        return 400 <= self.status < 500


def part(name: str | bytes, content: bytes, filename: str | bytes | None = None, *headers: bytes) -> bytes:
    """One part of a form; names are put in as they are."""

    def raw(text: str | bytes) -> bytes:
        return text if isinstance(text, bytes) else text.encode()

    file = b"" if filename is None else b'; filename="' + raw(filename) + b'"'
    disposition = b'Content-Disposition: form-data; name="' + raw(name) + b'"' + file
    lines = [f"--{BOUNDARY}".encode(), disposition, *headers, b"", content, b""]
    return b"\r\n".join(lines)


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def answer_of(connection: socket.socket) -> Answer:
    """What the server sends until it closes the connection."""
    received = bytearray()
    # A server that refuses early resets the connection of a client that still sends.
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    text = received.decode("latin-1")
    return Answer(int(text.split(" ", 2)[1]) if text.startswith("HTTP/") else 0, text)


def exchange(url: str, *pieces: bytes | Iterable[bytes], half_close: bool = False) -> Answer:
    """Send pieces as far as the server takes them, and return its answer."""
    with connect(url) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                for chunk in [piece] if isinstance(piece, bytes) else piece:
                    connection.sendall(chunk)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return answer_of(connection)


def post(url: str, path: str, body: bytes, *headers: str) -> Answer:
    """A whole request whose connection the server closes behind its answer."""
    length = f"Content-Length: {len(body)}"
    return exchange(url, head("POST", path, "Connection: close", length, *headers), body)
