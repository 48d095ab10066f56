"""A multipart form read while it arrives: nothing of it is kept that nobody asks for."""

import sys
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_DRAINED_BYTES = 256 * 1024


class MultipartError(ValueError):
    """The body is no multipart form; the message says what is wrong with it."""


@dataclass(eq=False)
class Part:
    """A part of the form: a field, or a file when it has a file name.

    Attributes:
        name: the field's name.
        filename: the client's name of the file, None for a field.
        headers: names in lower case, and values, as they were sent.
    """

    _stream: "MultipartStream"
    name: str = ""
    filename: str | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    _ended: bool = False

    @property
    def is_at_end(self) -> bool:
        """Whether all of it was read."""
        return self._ended

    async def read(self, size: int = -1) -> bytes:
        """The part's next bytes, at most ``size`` and fewer only at its end; empty behind it. -1 means all.

        Raises:
            MultipartError: the body ends first, or is no form.
        """
        pieces: list[bytes] = []
        wanted = sys.maxsize if size < 0 else size
        while wanted and not self._ended:
            piece = await self._stream.next_event()
            if not isinstance(piece, bytes):
                self._ended = True
                break
            if len(piece) > wanted:
                self._stream.put_back(piece[wanted:])
                piece = piece[:wanted]
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)


class _End:
    """The end of a part."""


class MultipartStream:
    """Parses chunks of a body as parts are asked for.

    Args:
        content_type: the request's header.
        chunks: the body.
        max_parts: how many parts there may be.

    Raises:
        MultipartError: the header has no usable boundary.
    """

    def __init__(self, content_type: str, chunks: AsyncIterator[bytes], *, max_parts: int) -> None:
        _, options = parse_options_header(content_type)
        if not (boundary := options.get(b"boundary")):
            raise MultipartError("The content type has no boundary.")
        self._chunks = chunks
        self._left = max_parts
        self._events: deque[Part | bytes | _End] = deque()
        self._complete = False
        self._part = Part(self)
        self._header = (bytearray(), bytearray())
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise MultipartError(str(error)) from error

    async def parts(self) -> AsyncIterator[Part]:
        """The parts in their order. What was not read of one is skipped before the next.

        Raises:
            MultipartError: the body is no form, ends too early, or has too many parts.
        """
        while (part := await self._event_or_end()) is not None:
            if isinstance(part, Part):
                yield part
                while await part.read(_DRAINED_BYTES):
                    """Nobody wanted it."""

    async def next_event(self) -> "Part | bytes | _End":
        """For `Part`: what comes next inside of a part."""
        event = await self._event_or_end()
        if event is None:
            raise MultipartError("The body ends before the form does.")
        return event

    def put_back(self, piece: bytes) -> None:
        """For `Part`: let ``piece`` come next again."""
        self._events.appendleft(piece)

    async def _event_or_end(self) -> "Part | bytes | _End | None":
        while not self._events:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                if not self._complete:
                    raise MultipartError("The body ends before the form does.") from None
                return None
            # What follows the form's end is read, so that the connection can go on, and ignored.
            if chunk and not self._complete:
                try:
                    self._parser.write(chunk)
                except FormParserError as error:
                    raise MultipartError(f"The body is no form: {error}") from error
        return self._events.popleft()

    def _on_part_begin(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise MultipartError("The form has too many parts.")
        self._part = Part(self)

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        self._part.headers.append((bytes(name).lower(), bytes(value)))
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        disposition = dict(self._part.headers).get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise MultipartError("A part has no name.")
        self._part.name = decoded(options[b"name"])
        if b"filename" in options:
            self._part.filename = decoded(options[b"filename"])
        self._events.append(self._part)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _on_part_end(self) -> None:
        self._events.append(_End())

    def _on_end(self) -> None:
        self._complete = True


def decoded(text: bytes) -> str:
    """Text of a form: UTF-8, or what old clients send."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")
