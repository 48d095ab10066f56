"""``celery -A celery_app ml ...``.

Celery loads this module at every start, also of workers: nothing else is imported before a command runs.
"""

from pathlib import Path
from typing import Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options


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
    help="A field of the upload's form, such as format=webp. Can be repeated.",
)
def demo(picture: Path | None, task: str, fields: tuple[str, ...]) -> None:
    """Do one job, from the upload to the result.

    Starts a private Redis (or uses CL_ML_TOOLS_REDIS_URL), a worker and the master, uploads PICTURE (or draws
    one), shows the progress, tells where the result is, and stops what it started.
    """
    from cl_ml_tools.demo import run_demo
    from cl_ml_tools.errors import MLToolsError

    form = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{field!r} is not NAME=VALUE", param_hint="--set")
        form[name] = value
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
