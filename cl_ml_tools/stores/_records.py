"""Job records as Redis holds them: from a hash to a `JobRecord`, and values on their way in."""

import json
from pathlib import PurePath
from typing import Any

from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.common.schemas import JobRecord, check_nesting
from cl_ml_tools.errors import InvalidJobError


def to_json(field: str, value: Any) -> str:
    """``value`` as JSON text in ASCII.

    Raises:
        InvalidJobError: JSON cannot hold it; the message names ``field``.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        check_nesting(value)
        return text
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJobError(f"{field} cannot be written as JSON: {error}") from error


MAX_TEXT = 4000
"""Longest error message or detail that is kept, in characters; it goes out with every answer."""


def to_text(text: str | None) -> str:
    """``text`` as UTF-8 can carry it (file names may hold lone surrogates), cut to `MAX_TEXT`; empty for None."""
    text = text or ""
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT - 4]} ..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_pairs(flat: list[str]) -> dict[str, str]:
    """A hash from a script's flat list of fields and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def read_record(job_id: str, fields: dict[str, str]) -> JobRecord:
    """The record that a hash holds; fields that are absent have the model's defaults."""
    decoded: dict[str, Any] = {**fields, "job_id": job_id, "params": json.loads(fields["params"])}
    if "task_output" in fields:
        decoded["task_output"] = json.loads(fields["task_output"])
    if "history" in fields:
        decoded["history"] = [json.loads(line) for line in fields["history"].split("\n")]
    return JobRecord.model_validate(decoded)


def read_dispatch(job_id: str, fields: dict[str, str]) -> Dispatch:
    """The message that a queued record's hash asks for."""
    return Dispatch(
        job_id,
        fields["task_type"],
        int(fields["priority"]),
        int(fields["sequence"]),
        int(fields.get("retries", 0)),
        file_names(json.loads(fields["params"])),
    )


def file_names(params: dict[str, Any]) -> tuple[str, ...]:
    """The names of a job's inputs, without their directories."""
    paths = params.get("input_paths")
    return tuple(PurePath(str(path)).name for path in paths) if isinstance(paths, list) else ()
