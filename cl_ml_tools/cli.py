"""``celery -A celery_app ml ...``.

Celery loads this module at every start, also of workers: what is heavy is imported when a command runs.
"""

from pathlib import Path
from typing import Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options

from cl_ml_tools.job_commands import cancel, installation_behind, jobs, retry


@click.group(name="ml")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def ml(ctx: click.Context, **_: Any) -> None:
    """Media and ML plugins as Celery tasks."""


@ml.command(cls=CeleryCommand)
@click.argument("picture", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", default="image_resize", show_default=True, help="The task that does the job.")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the upload's form, such as format=webp. Can be repeated, with one name for a list.",
)
def demo(picture: Path | None, task: str, fields: tuple[str, ...]) -> None:
    """Do one job, from the upload to the result.

    Starts a private Redis (or uses CL_ML_TOOLS_REDIS_URL), a worker and the master, uploads PICTURE (or draws
    one), shows the progress, tells where the result is, and stops what it started.
    """
    from cl_ml_tools.demo import run_demo
    from cl_ml_tools.errors import MLToolsError

    form = []
    for field in fields:
        name, equals, value = field.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{field!r} is not NAME=VALUE", param_hint="--set")
        form.append((name, value))
    try:
        run_demo(picture, task, form)
    except MLToolsError as error:
        raise click.ClickException(str(error)) from error


@ml.command(cls=CeleryCommand)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Of the master.")
def up(port: int) -> None:
    """Keep Redis, a worker and the master running here, until Ctrl-C.

    Redis is the one of CL_ML_TOOLS_REDIS_URL, else a private one. It keeps its jobs beside their files, in
    CL_ML_TOOLS_STORAGE_DIR, for the next start.
    """
    from cl_ml_tools.demo import run_stack
    from cl_ml_tools.errors import MLToolsError

    try:
        run_stack(port)
    except MLToolsError as error:
        raise click.ClickException(str(error)) from error


@ml.command("recover", cls=CeleryCommand)
@click.option(
    "--for",
    "seconds",
    default=0.0,
    type=click.FloatRange(min=0),
    help="Go on for so long instead of doing one step.",
)
@click.pass_context
def recover_command(ctx: click.Context, seconds: float) -> None:
    """Do one step of recovery by hand, and say what was done.

    Workers do it by themselves, every few seconds; this is for when none lives. It finds at once what is due. It
    finds a lost worker, or a lost message, by looking several times: use --for, with more than
    CL_ML_TOOLS_LEASE_SECONDS or CL_ML_TOOLS_LOST_MESSAGE_SECONDS.
    """
    import time
    from collections import Counter

    from cl_ml_tools.errors import MLToolsError
    from cl_ml_tools.recovery import recover

    installation = installation_behind(ctx)
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    try:
        installation.repository.check_broker()
        while True:
            done += recover(installation.recovery, installation.repository.send, installation.clean_up)
            left = end - time.monotonic()
            if left <= 0:
                break
            # Often enough to count as looking after leases all the time.
            time.sleep(min(left, installation.settings.lease_seconds / 3))
    except MLToolsError as error:
        raise click.ClickException(str(error)) from error
    for word, count in sorted(done.items()):
        click.echo(f"{count} {word}")
    if not done:
        click.echo("Nothing to do.")


for command in (jobs, cancel, retry):
    ml.add_command(command)
