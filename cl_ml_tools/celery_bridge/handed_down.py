"""What a worker's main process tells its pool processes, forked or spawned, for as long as they live."""

import os

_values: dict[str, str] = {}


def hand_down(variable: str, value: str) -> None:
    """In the main process, before its pool starts."""
    _values[variable] = os.environ[variable] = value


def handed_down(variable: str) -> str:
    """The value, in any process of the worker. From the first call on the environment, which a plugin may change,
    is not needed for it.

    Raises:
        KeyError: this is no process of a worker.
    """
    if variable not in _values:
        _values[variable] = os.environ[variable]
    return _values[variable]
