"""The commands themselves.

Loaded at every start of Celery, as `cl_ml_tools.cli` is: what is heavy is imported when a command runs.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click
from celery.bin.base import CeleryCommand

from cl_ml_tools.common.job_control import FindsJobs, JobPage, JobQuery
from cl_ml_tools.common.job_leases import CancelAnswer
from cl_ml_tools.common.schemas import JobRecord, JobStatus
from cl_ml_tools.errors import JobStateError, MLToolsError, UnknownJobError

if TYPE_CHECKING:
    from cl_ml_tools.celery_bridge.installation import Installation

C = TypeVar("C", bound=Callable[..., Any])

PAGE = 200
"""How many jobs are asked for at once."""

MANY = 100
"""From so many jobs on, it is shown how far the work is."""

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _read_since(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | int | None:
    """How long ago, or the time in ms since 1970."""
    if value is None:
        return None
    try:
        if ago := re.fullmatch(r"([0-9]+)([smhdw])", value):
            return timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value!r} is neither like 2h or 3d nor a time like 2026-01-31T08:00."
        ) from error


def _which_jobs(command: C) -> C:
    """Add the options that all of these commands have."""
    for option in (
        click.option(
            "--since",
            callback=_read_since,
            metavar="AGE|TIME",
            help="Only jobs accepted since then: so long ago (90s, 5m, 2h, 3d, 1w), or a time like "
            "2026-01-31T08:00, which is local unless it names its zone.",
        ),
        click.option(
            "--creator", metavar="NAME", help="Only jobs of this user; '' for those that are nobody's."
        ),
        click.option("--type", "task_type", metavar="TYPE", help="Only jobs of this task type."),
    ):
        command = option(command)
    return command


def _status(*statuses: JobStatus, help: str) -> Callable[[C], C]:
    choices = click.Choice([status.value for status in statuses])
    return click.option("--status", type=choices, help=help)


_yes = click.option("--yes", is_flag=True, help="Do not ask whether it is meant.")


@click.command(cls=CeleryCommand)
@_status(*JobStatus, help="Only jobs in this status.")
@_which_jobs
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1), help="At most so many.")
@click.option(
    "--json", "as_json", is_flag=True, help="All that is known of each job, as one JSON object a line."
)
@click.pass_context
def jobs(
    ctx: click.Context,
    status: str | None,
    task_type: str | None,
    creator: str | None,
    since: timedelta | int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List everybody's jobs, newest first.

    The last column is the node of a job that runs, and the first line of the message of one in error.
    """
    from cl_ml_tools.job_commands.table import JobTable

    installation = installation_behind(ctx)
    with _told_in_a_line():
        query = _query(installation, task_type, creator, since)
        query = replace(query, status=JobStatus(status) if status else None, limit=limit)
        table = JobTable(installation.store.now())
        shown, page = 0, JobPage([], None)
        for page in pages(installation.repository, query):
            shown += len(page.jobs)
            lines = map(_as_json, page.jobs) if as_json else table.lines(page.jobs)
            for line in lines:
                click.echo(line)
    if as_json:
        return
    if not shown:
        click.echo("No job matches.")
    elif page.next is not None:
        click.echo(f"These are {shown}; --limit shows more.", err=True)


@click.command(cls=CeleryCommand)
@click.argument("job_ids", metavar="[JOB_ID]...", nargs=-1)
@_status(
    JobStatus.QUEUED, JobStatus.PROCESSING, help="Only jobs in this status. Without it: those in either."
)
@_which_jobs
@click.option("--all", "everything", is_flag=True, help="All jobs that are queued or run.")
@_yes
@click.pass_context
def cancel(
    ctx: click.Context,
    job_ids: tuple[str, ...],
    status: str | None,
    task_type: str | None,
    creator: str | None,
    since: timedelta | int | None,
    everything: bool,
    yes: bool,
) -> None:
    """Cancel jobs, whosever they are: those that are named, or all that match.

    A queued job is cancelled at once. One that runs is asked to stop, and counted as stopping. May be repeated.
    """
    _check_selection(job_ids, (status, task_type, creator, since), everything, "--all")
    statuses = [JobStatus(status)] if status else [JobStatus.QUEUED, JobStatus.PROCESSING]
    installation = installation_behind(ctx)

    def cancel_one(job_id: str) -> tuple[str, str]:
        answer = installation.repository.cancel_job(job_id)
        if answer is CancelAnswer.ENDED:
            return "ended already", ""
        return str(answer), f"there is no job {job_id!r}" if answer is CancelAnswer.UNKNOWN else ""

    with _told_in_a_line():
        installation.repository.check_broker()
        query = _query(installation, task_type, creator, since)
        chosen = _choose(installation, job_ids, query, statuses, yes, "Cancel")
        done = _do_to_each(chosen, "Cancelling", cancel_one)
    _leave(ctx, job_ids, done)


@click.command(cls=CeleryCommand)
@click.argument("job_ids", metavar="[JOB_ID]...", nargs=-1)
@_status(JobStatus.ERROR, JobStatus.CANCELLED, help="Only jobs in this status. Without it: those in error.")
@_which_jobs
@_yes
@click.pass_context
def retry(
    ctx: click.Context,
    job_ids: tuple[str, ...],
    status: str | None,
    task_type: str | None,
    creator: str | None,
    since: timedelta | int | None,
    yes: bool,
) -> None:
    """Try jobs again that ended in error or were cancelled: those that are named, or all that match.

    They go back to their queues with all their tries. A job whose state forbids it is told, the others go on.
    """
    _check_selection(job_ids, (status, task_type, creator, since), False, "--status error")
    installation = installation_behind(ctx)

    def retry_one(job_id: str) -> tuple[str, str]:
        try:
            installation.repository.retry_job(job_id)
        except UnknownJobError as error:
            return "unknown", str(error)
        except JobStateError as error:
            return "refused", str(error)
        return "queued again", ""

    with _told_in_a_line():
        installation.repository.check_broker()
        query = _query(installation, task_type, creator, since)
        chosen = _choose(installation, job_ids, query, [JobStatus(status or JobStatus.ERROR)], yes, "Retry")
        _reach_broker(installation)
        done = _do_to_each(chosen, "Sending again", retry_one)
    _leave(ctx, job_ids, done)


def installation_behind(ctx: click.Context) -> "Installation":
    """What is installed on the app that ``-A`` names.

    Raises:
        click.ClickException: nothing is.
    """
    from cl_ml_tools.celery_bridge.installation import installations

    app = ctx.obj.app
    # `-A` may have found a proxy of an app.
    installation = installations.get(getattr(app, "_get_current_object", lambda: app)())
    if installation is None:
        raise click.ClickException(
            "cl_ml_tools is not installed on this app: call cl_ml_tools.celery_bridge.install(app, store)."
        )
    return installation


def pages(repository: FindsJobs, query: JobQuery) -> Iterator[JobPage]:
    """The jobs that are wanted, up to the query's limit, one page after the other."""
    left, after = query.limit, query.after
    while left > 0:
        page = repository.find_jobs(replace(query, after=after, limit=min(left, PAGE)))
        yield page
        left, after = left - len(page.jobs), page.next
        if after is None:
            break


def matching_ids(repository: FindsJobs, query: JobQuery, statuses: Sequence[JobStatus]) -> list[str]:
    """The ids of all jobs that match and are in one of the statuses; all are looked for before any is treated.

    A job that goes from one of the statuses to another meanwhile is found, whichever way it goes.
    """
    found: dict[str, None] = {}
    # The first ones again: a job that left a later status may be back there.
    for status in (*statuses, *statuses[:-1]):
        for page in pages(repository, replace(query, status=status, limit=sys.maxsize)):
            found.update((job.job_id, None) for job in page.jobs)
    return list(found)


def _as_json(job: JobRecord) -> str:
    # In ASCII: names of files may hold what UTF-8 cannot carry.
    return json.dumps(job.model_dump())


@contextmanager
def _told_in_a_line() -> Iterator[None]:
    try:
        yield
    except MLToolsError as error:
        raise click.ClickException(str(error)) from error


def _query(
    installation: "Installation", task_type: str | None, creator: str | None, since: timedelta | int | None
) -> JobQuery:
    if isinstance(since, timedelta):
        since = installation.store.now() - since // timedelta(milliseconds=1)
    return JobQuery(
        created_by=creator or None, of_anybody=creator is None, task_type=task_type, created_from=since
    )


def _check_selection(
    job_ids: Sequence[str], filters: Sequence[object], everything: bool, at_least: str
) -> None:
    is_filtered = everything or any(value is not None for value in filters)
    if job_ids and is_filtered:
        raise click.UsageError("Name jobs, or say by options which ones are meant; not both.")
    if not job_ids and not is_filtered:
        raise click.UsageError(f"Which jobs? Name them, or say it by options, {at_least} at least.")


def _choose(
    installation: "Installation",
    job_ids: Sequence[str],
    query: JobQuery,
    statuses: Sequence[JobStatus],
    yes: bool,
    verb: str,
) -> list[str]:
    """The ids that are named, or those that match and that somebody has agreed to."""
    if job_ids:
        return list(dict.fromkeys(job_ids))
    found = matching_ids(installation.repository, query, statuses)
    if not found or yes:
        return found
    question = f"{verb} {len(found)} job{'s' if len(found) > 1 else ''}?"
    if not sys.stdin.isatty():
        raise click.ClickException(f"{question} There is no terminal to ask at: say --yes if it is meant.")
    click.confirm(question, abort=True)
    return found


def _reach_broker(installation: "Installation") -> None:
    """Each job would wait for a broker that is away."""
    try:
        installation.repository.reach_broker()
    except Exception as error:
        raise click.ClickException(f"The broker does not answer, nothing was retried: {error}") from error


def _do_to_each(job_ids: Sequence[str], label: str, act: Callable[[str], tuple[str, str]]) -> "Counter[str]":
    """Count the words that ``act`` answers, and tell what else it says; also when it fails on the way."""
    done: Counter[str] = Counter()
    notes: list[str] = []
    is_small = len(job_ids) < MANY
    try:
        with click.progressbar(
            job_ids, label=label, file=sys.stderr, hidden=is_small, update_min_steps=MANY
        ) as shown:
            for job_id in shown:
                word, note = act(job_id)
                done[word] += 1
                if note:
                    notes.append(note)
    finally:
        for note in notes:
            click.echo(note, err=True)
        for word, count in sorted(done.items()):
            click.echo(f"{count} {word}")
    if not done:
        click.echo("No job matches.")
    return done


def _leave(ctx: click.Context, named: Sequence[str], done: "Counter[str]") -> None:
    """What was found, and is gone since, is no error."""
    if named and done["unknown"]:
        ctx.exit(1)
