"""A bound on how slowly a request's headers may come in, for uvicorn, which has none.

No application sees a request before its headers are complete, so this is given to the server:
``uvicorn ... --http cl_ml_tools.web.slow_headers:HeaderTimeout``.
"""

import asyncio
from functools import cache
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from cl_ml_tools.settings import Settings

_Protocol: Any = AutoHTTPProtocol


class HeaderTimeout(_Protocol):  # type: ignore[misc]  # one of two classes, by what is installed
    """Uvicorn's own protocol, which closes a connection where no request is under way and none begins in time.

    It looks once in each time that a client is given, so a connection is closed within twice that. What a client still
    sends of a body whose request was answered long ago counts as nothing.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to look."""
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._looking.cancel()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        self._looking = self.loop.call_later(_seconds(), self._look, self.cycle)

    def _look(self, before: Any) -> None:
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.close()
        else:
            self._look_later()


@cache
def _seconds() -> float:
    return Settings.from_environment().slow_client_seconds
