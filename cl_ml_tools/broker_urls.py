"""One Redis, two spellings: the URL that redis-py takes, and the one that Celery takes."""

from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from cl_ml_tools.errors import SettingsError


def broker_url_for(redis_url: str) -> str:
    """Return the URL under which Celery reaches the Redis server that redis-py reaches under ``redis_url``.

    ``redis://`` and ``rediss://`` stay as they are. ``unix:///p.sock?db=1`` becomes
    ``redis+socket:///p.sock?virtual_host=1``, with user name and password if given. Other options of a
    ``unix://`` URL are for redis-py alone and are left out.

    Raises:
        SettingsError: it is no URL that redis-py takes.
    """
    parts = urlsplit(redis_url)
    if parts.scheme in ("redis", "rediss"):
        return redis_url
    # No part of the URL is repeated in the message: it may hold a password.
    if parts.scheme != "unix":
        raise SettingsError(
            "CL_ML_TOOLS_REDIS_URL must begin with redis://, rediss:// or unix://. "
            "If the broker is no such server, set CL_ML_TOOLS_BROKER_URL beside it."
        )
    if parts.hostname or len(parts.path) < 2:
        raise SettingsError("CL_ML_TOOLS_REDIS_URL needs an absolute path: unix:///run/redis.sock?db=0")
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    user = unquote(parts.username or "") or options.get("username", "")
    password = unquote(parts.password or "") or options.get("password", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    # Quoted, since Celery splits a broker URL at semicolons.
    path = quote(unquote(parts.path))
    query = urlencode({"virtual_host": options.get("db", "0")})
    return f"redis+socket://{login}{'@' if login else ''}{path}?{query}"
