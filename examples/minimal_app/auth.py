"""The team's own way to know its users: bearer tokens, ``TOKENS=ann:<token>,bob:<token>``."""

import os
from dataclasses import dataclass
from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer


@dataclass(frozen=True)
class User:
    id: str


_bearer = HTTPBearer(auto_error=False)


def current_user(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> User:
    for entry in os.environ["TOKENS"].split(","):
        name, _, token = entry.partition(":")
        if sent is not None and token and compare_digest(token.encode(), sent.credentials.encode()):
            return User(name)
    raise HTTPException(401, "Send a bearer token that is known.", {"WWW-Authenticate": "Bearer"})
