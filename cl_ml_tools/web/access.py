"""Who may call our own application, and what its answers say to browsers."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cl_ml_tools.errors import SettingsError
from cl_ml_tools.settings import Settings
from cl_ml_tools.web.errors import problem_responses

User = dict[str, str]


def user_dependency(settings: Settings) -> tuple[Callable[..., Any], Callable[[Any], bool]]:
    """The dependency that tells who calls, and the predicate that tells whether they are an admin.

    Without tokens in the settings everybody is let in, as nobody. The settings hold the tokens' hashes only.

    Raises:
        SettingsError: an admin has no token.
    """
    digests = [entry.partition(":") for entry in settings.api_tokens.split(",") if entry]
    users = [(user, bytes.fromhex(digest)) for user, _, digest in digests]
    admins = {name.strip() for name in settings.admin_users.split(",")} - {""}
    if unknown := admins - {user for user, _ in users}:
        raise SettingsError(
            f"CL_ML_TOOLS_ADMIN_USERS names {', '.join(sorted(unknown))}, who has no token: add one to "
            f"CL_ML_TOOLS_API_TOKENS"
        )
    if not users:
        return _nobody, lambda _: False
    bearer = HTTPBearer(auto_error=False, description="A token whose SHA-256 is in CL_ML_TOOLS_API_TOKENS.")

    # Neither waits for anything, so neither takes a thread.
    async def current_user(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> User:
        sent = credentials.credentials if credentials else ""
        digest = hashlib.sha256(sent.encode("utf-8", "surrogatepass")).digest()
        known = None
        # All are compared, each in constant time: how long it takes tells nothing.
        for user, expected in users:
            if hmac.compare_digest(digest, expected):
                known = user
        if known is None:
            raise HTTPException(
                401,
                "A bearer token is needed, and this is none that is known.",
                {"WWW-Authenticate": "Bearer"},
            )
        return {"id": known}

    return current_user, lambda user: user["id"] in admins


def add_headers(app: FastAPI, settings: Settings) -> None:
    """Let every answer carry security headers, and those that browsers need when pages elsewhere may call."""

    app.add_middleware(_SecurityHeaders)
    if origins := [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Idempotency-Key", "Last-Event-ID", "Range", "If-Range"],
            expose_headers=[
                "Content-Range",
                "ETag",
                "Content-Disposition",
                "Retry-After",
                "Idempotent-Replayed",
            ],
        )


def describe_refusals(app: FastAPI) -> None:
    """Let the app's OpenAPI document say 401 of every operation that needs a token, whoever has written it."""
    make = app.openapi
    refused = problem_responses(
        {401: "A bearer token is needed, and this is none that is known."},
        {401: {"WWW-Authenticate": "The scheme that is needed."}},
    )[401]

    def openapi() -> dict[str, Any]:
        document = make()
        for methods in document["paths"].values():
            for operation in methods.values():
                if operation.get("security"):
                    operation["responses"].setdefault("401", refused)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does it


class _SecurityHeaders:
    """Plain ASGI: bodies and streams pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("X-Frame-Options", "DENY")
                headers.setdefault("Referrer-Policy", "no-referrer")
            await send(message)

        await self._app(scope, receive, send_secured if scope["type"] == "http" else send)


async def _nobody() -> None:
    """Jobs belong to nobody in particular."""
