"""A bound on how slowly a request's body may come in."""

import asyncio

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STEP_BYTES = 64 * 1024
"""So much of a body, or its rest, has to come in each of the times that a client is given."""


class BodyTimeout:
    """Middleware: ends a request with 408 when its client sends too slowly, also a byte now and then.

    Only waiting for the client counts, not what the application does between. Once an answer has begun nothing is
    bounded, so streams of events may last. The application has to turn `HTTPException` into an answer, as FastAPI
    does.

    Args:
        app: what is called.
        seconds: how long a client may take for `STEP_BYTES`, or for the rest of the body.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, send, self._seconds)
        await self._app(scope, body.receive, body.send)


class _Body:
    def __init__(self, receive: Receive, send: Send, seconds: float) -> None:
        self._receive, self._send, self._seconds = receive, send, seconds
        self._is_bounded = True
        self._waited, self._bytes = 0.0, 0

    async def send(self, message: Message) -> None:
        self._is_bounded = False
        await self._send(message)

    async def receive(self) -> Message:
        if not self._is_bounded:
            return await self._receive()
        clock = asyncio.get_running_loop().time
        begin = clock()
        try:
            async with asyncio.timeout(self._seconds - self._waited):
                message = await self._receive()
        except TimeoutError:
            # Closed, or the rest of the body would be waited for as the next request.
            raise HTTPException(
                408, "The request's body came in too slowly.", {"Connection": "close"}
            ) from None
        self._waited += clock() - begin
        self._bytes += len(message.get("body", b""))
        if self._bytes >= STEP_BYTES:
            self._waited, self._bytes = 0.0, 0
        self._is_bounded = bool(message.get("more_body"))
        return message
