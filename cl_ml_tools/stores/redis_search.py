"""Searches the records of jobs in Redis."""

from dataclasses import replace

from cl_ml_tools.common.job_control import JobCursor, JobPage, JobQuery
from cl_ml_tools.common.schemas import JobRecord
from cl_ml_tools.stores._records import read_pairs, read_record
from cl_ml_tools.stores._scripts import ScriptRunner

SCANNED_AT_ONCE = 1000
"""How many records one script looks at: a few milliseconds in which the server does nothing else."""

MAX_ROUNDS = 20
"""How often a search goes on for one page before it gives out what it has."""


def find_jobs(scripts: ScriptRunner, query: JobQuery) -> JobPage:
    """See `cl_ml_tools.common.job_control.FindsJobs.find_jobs`.

    Takes time by the jobs that are looked at: those of the creator, in the status or of the type,
    whichever are fewest.

    Raises:
        StoreUnavailableError: the server does not answer.
    """
    found: list[JobRecord] = []
    after = query.after
    for _ in range(MAX_ROUNDS):
        # One more than wanted: it tells whether anything is left.
        part, after = _search(scripts, replace(query, after=after), query.limit + 1 - len(found))
        found += part
        if len(found) > query.limit:
            last = found[query.limit - 1]
            return JobPage(found[: query.limit], JobCursor(last.created_at, last.job_id))
        if after is None:
            break
    return JobPage(found, after)


def _search(scripts: ScriptRunner, query: JobQuery, limit: int) -> tuple[list[JobRecord], JobCursor | None]:
    newest, after_id = "+inf", ""
    if query.created_before is not None:
        newest = f"({query.created_before}"
    if query.after is not None and (
        query.created_before is None or query.after.created_at < query.created_before
    ):
        newest, after_id = str(query.after.created_at), query.after.job_id
    whose = "anybody" if query.of_anybody else "nobody" if query.created_by is None else "creator"
    stopped_at, stopped_id, *jobs = scripts.run(
        "find",
        whose,
        query.created_by or "",
        query.status or "",
        query.task_type or "",
        newest,
        after_id,
        "-inf" if query.created_from is None else query.created_from,
        limit,
        SCANNED_AT_ONCE,
    )
    records = [
        read_record(job_id, read_pairs(fields)) for job_id, fields in zip(jobs[::2], jobs[1::2], strict=True)
    ]
    return records, JobCursor(int(stopped_at), stopped_id) if stopped_id else None
