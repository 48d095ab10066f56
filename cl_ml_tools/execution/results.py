"""What a plugin returned, as JSON has it."""

import json
import math
from enum import Enum
from typing import Any

from pydantic_core import to_jsonable_python

from cl_ml_tools.common.schemas import MAX_NESTING
from cl_ml_tools.execution.failures import PluginError

MAX_INTEGER_BITS = 14_284
"""Python writes no longer integer as text."""

REASONS = ("error", "error_message", "message", "detail")
"""Where an error result may say why. The first is the promised one."""

Place = list[object]
"""The keys and indexes that lead to a value."""


def read_result(returned: object) -> dict[str, Any]:
    """The task's output, as JSON values.

    Raises:
        PluginError: the plugin says that it failed, or what it returned is no result.
    """
    if not isinstance(returned, dict) or returned.get("status") not in ("ok", "error"):
        raise PluginError(
            "the plugin returned no result: it must be {'status': 'ok', 'task_output': {...}} or "
            f"{{'status': 'error', 'error': '...'}}, not {returned!r:.200}"
        )
    if returned["status"] == "error":
        reasons = filter(None, map(returned.get, REASONS))
        raise PluginError(str(next(reasons, "the plugin gave no reason")))
    task_output = returned.get("task_output")
    output = {} if task_output is None else _json_value(task_output, [])
    if not isinstance(output, dict):
        raise PluginError(f"the plugin's task_output must be a dict, not {type(task_output).__name__}")
    return output


def unread_of(returned: object) -> str:
    """A message about what `read_result` does not look at, and nobody else; empty when there is no such thing."""
    if not isinstance(returned, dict) or returned.get("status") not in ("ok", "error"):
        return ""
    status = returned["status"]
    names = ("task_output",) if status == "ok" else REASONS
    unread = [
        f"{key!r:.50}"
        for key, value in returned.items()
        if value is not None and key not in ("status", *names)
    ]
    if not unread:
        return ""
    return (
        f"the plugin returned {', '.join(unread)}, which nobody reads; "
        f"with status {status!r} it may be {' or '.join(names)}"
    )


def _json_value(value: Any, place: Place) -> Any:
    """``value`` as dicts, lists, text, numbers, booleans and None."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _json_value(value.value, place)
    # Also of the classes derived from them, whose values are as those.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PluginError(f"{_told(place)} is {value}, which JSON does not have")
        return float(value)
    if isinstance(value, int):
        if value.bit_length() > MAX_INTEGER_BITS:
            raise PluginError(f"{_told(place)} is an integer of too many digits")
        return int(value)
    if isinstance(value, dict):
        return _json_dict(value, place)
    if isinstance(value, list | tuple | set | frozenset):
        return _json_list(value, place)
    return _json_value(_converted(value, place), place)


def _json_dict(values: dict[Any, Any], place: Place) -> dict[str, Any]:
    _check_depth(values, place)
    found = {}
    for key, value in values.items():
        place.append(key)
        name = key if type(key) is str else _json_value(key, place)
        if isinstance(name, list | dict):
            place.pop()
            raise PluginError(f"{_told(place)} has the key {key!r:.100}, which is no text")
        found[name if isinstance(name, str) else json.dumps(name)] = _json_value(value, place)
        place.pop()
    return found


def _json_list(values: Any, place: Place) -> list[Any]:
    _check_depth(values, place)
    found = []
    place.append(0)
    for index, value in enumerate(values):
        place[-1] = index
        found.append(_json_value(value, place))
    place.pop()
    return found


def _check_depth(values: Any, place: Place) -> None:
    if values and len(place) >= MAX_NESTING:
        # Told without the place, which is too long.
        raise PluginError(
            "the plugin's task_output cannot be written as JSON: "
            f"it is nested deeper than {MAX_NESTING} levels"
        )


def _converted(value: Any, place: Place) -> Any:
    """What stands for a value that is none of JSON's."""
    problem = f"{_told(place)} is a {type(value).__name__}, which JSON does not have"
    # Of bytes not even the encoding is known, and what can be read only once is not read.
    if isinstance(value, bytes | bytearray) or hasattr(value, "__next__"):
        raise PluginError(problem)
    try:
        converted = value.tolist() if _has_tolist(value) else _of_pydantic(value)
    except Exception as error:
        raise PluginError(f"{problem}: {error}") from error
    if type(converted) is type(value):
        raise PluginError(problem)
    return converted


def _of_pydantic(value: object) -> object:
    return to_jsonable_python(value, by_alias=False, fallback=_of_array)


def _of_array(value: Any) -> object:
    if _has_tolist(value):
        return value.tolist()
    raise TypeError(f"type {type(value).__name__} is unknown")


def _has_tolist(value: object) -> bool:
    """Whether it is an array or a number of numpy's, torch's or the like."""
    return not isinstance(value, type) and callable(getattr(value, "tolist", None))


def _told(place: Place) -> str:
    parts = (
        f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{part!r:.50}]" for part in place
    )
    return "".join(("task_output", *parts))
