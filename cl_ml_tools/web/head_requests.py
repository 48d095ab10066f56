"""HEAD wherever there is GET."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Middleware: answers HEAD as it would answer GET, without the body (RFC 9110, 9.3.2).

    FastAPI's routes refuse it, and monitors, load balancers and download managers ask so. A stream is given up once
    it has begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({"type": "http.response.body"})
            if message.get("more_body"):
                raise _HeadSentError

        try:
            await self._app({**scope, "method": "GET"}, receive, send_head)
        except* _HeadSentError:
            pass


class _HeadSentError(Exception):
    """The rest of the body is not wanted."""
