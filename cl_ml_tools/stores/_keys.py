"""Every key in Redis: its name, its type and how long it lives. The Lua scripts get theirs from here too.

All names begin with the prefix in braces, so that on a Redis Cluster they share one slot.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Key:
    function: str
    suffix: str
    takes: bool  # whether an argument follows the suffix
    redis_type: str
    lifetime: str


KEYS = (
    _Key("job", ":job:", True, "hash", "until the job is deleted"),
    _Key("jobs", ":jobs", False, "zset of job ids by creation time", "an entry as long as its job"),
    _Key("status", ":status:", True, "zset of job ids by creation time", "an entry as long as the status"),
    _Key("creator", ":creator:", True, "zset of job ids by creation time", "an entry as long as its job"),
    _Key("type", ":type:", True, "zset of job ids by creation time", "an entry as long as its job"),
    _Key("queued", ":queued:", True, "zset of job ids by sequence; one for each line", "while queued"),
    _Key("sequences", ":sequences", False, "hash of line to the last sequence number", "for ever; small"),
    _Key("seen", ":seen", False, "hash of line to the highest delivered number", "for ever; small"),
    _Key("lines", ":lines", False, "set of the lines that have queued jobs", "until recovery finds it empty"),
    _Key("watched", ":watched", False, "hash of line to what recovery saw there", "an entry as its line"),
    _Key("due", ":due", False, "zset of job ids by the time of their start", "an entry until then"),
    _Key("expiring", ":expiring", False, "zset of queued job ids by their expiry", "an entry while queued"),
    _Key("finished", ":finished", False, "zset of job ids by their end", "an entry as long as its job"),
    _Key("leases", ":leases", False, "zset of job ids by the lease's end", "an entry while processing"),
    _Key("events", ":events", False, "stream, capped", "the latest 100,000 events or so"),
    _Key("submission", ":submission:", True, "string: fingerprint and job id", "a day"),
    _Key("serving", ":serving", False, "zset of '<node> <task type>' by its end", "until nobody renews it"),
    _Key("turn", ":turn:", True, "string", "until the next turn"),
    _Key(
        "meta",
        ":meta",
        False,
        "hash: beat, broker, format, identity, has_storage",
        "for ever; small",
    ),
)


def root(prefix: str) -> str:
    """What every key begins with."""
    return f"{{{prefix}}}"


def lua_functions() -> str:
    """One Lua function for each key, ``key_<name>([argument])``, relative to ``KEYS[1]``."""
    lines = ["local ROOT = KEYS[1]"]
    for key in KEYS:
        argument, tail = ("a", " .. a") if key.takes else ("", "")
        lines.append(f"local function key_{key.function}({argument}) return ROOT .. '{key.suffix}'{tail} end")
    return "\n".join(lines)


class KeyNames:
    """The same names for Python."""

    def __init__(self, prefix: str) -> None:
        self.root = root(prefix)
        self._suffixes = {key.function: key.suffix for key in KEYS}

    def __call__(self, function: str, argument: str = "") -> str:
        """The full name of a key."""
        return self.root + self._suffixes[function] + argument
