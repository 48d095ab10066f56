"""The demo, and the local installation to play with: what ``celery ml demo`` and ``celery ml up`` do."""

import http.client
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.demo.local_stack import LocalStack, without_password
from cl_ml_tools.demo.master_client import MasterClient
from cl_ml_tools.demo.processes import OrderlyExit
from cl_ml_tools.errors import DemoError

_CHECK_SECONDS = 0.5
_BAR_WIDTH = 30
_FIELDS = {
    "image_resize": {"width": "400", "height": "400", "maintain_aspect_ratio": "true"},
    "image_conversion": {"format": "webp"},
}
"""What a task is asked for unless the user says otherwise."""


def run_demo(picture: Path | None, task_type: str, fields: Sequence[tuple[str, str]]) -> None:
    """Run one job on an installation of its own, from the upload to the result, and show how it goes.

    Args:
        picture: what is uploaded; None draws a picture.
        task_type: the task that does the job.
        fields: of the upload's form, beside those that the demo fills in; a field of several values is there several
            times.

    Raises:
        MLToolsError: it did not work; the message says why.
        SystemExit: a signal asked for the end.
    """
    with OrderlyExit() as exit_, tempfile.TemporaryDirectory(prefix="cl_ml_tools-demo-") as directory:
        stack = LocalStack(exit_)
        try:
            _start(stack)
            client = stack.client()
            with _connection_told(stack):
                _check_task(client, task_type)
                file = _drawn(Path(directory)) if picture is None else picture
                form = _form(task_type, fields)
                click.echo(f"Uploading {file.name} ({_description(file)}) to {task_type}: {_form_text(form)}")
                accepted = client.submit(task_type, file, form)
            if accepted.ignored_fields:
                click.echo(f"Ignored, as {task_type} has no such field: {', '.join(accepted.ignored_fields)}")
            click.echo(f"Job {accepted.job_id}")
            _follow(stack, client, accepted.job_id)
            with _connection_told(stack):
                _show_outcome(client.job(accepted.job_id))
        except SystemExit:
            click.echo("Stopping ...")
            raise
        finally:
            stack.stop()


def run_stack(port: int) -> None:
    """Keep Redis, a worker and the master running until a signal asks for the end.

    Args:
        port: of the master.

    Raises:
        MLToolsError: something could not be started, or has ended by itself.
        SystemExit: a signal asked for the end.
    """
    with OrderlyExit() as exit_:
        stack = LocalStack(exit_, port=port, keep_records=True)
        try:
            _start(stack)
            jobs = f"{stack.url}/api/jobs"
            form = " ".join(f"-F {name}={value}" for name, value in _FIELDS["image_resize"].items())
            lines = {
                "API": f"{stack.url}/api",
                "Docs": f"{stack.url}/docs",
                "Redis": without_password(stack.redis_url),
                "Files": str(stack.storage_dir),
                "Logs": "  ".join(map(str, stack.logs)),
                "Upload": f"curl -F file=@photo.jpg {form} {jobs}/image_resize",
                "Follow": f"curl -N {jobs}/JOB_ID/events",
            }
            click.echo("\n".join(f"{name:<8}{text}" for name, text in lines.items()))
            click.echo("Ctrl-C stops it all.")
            while True:
                stack.check()
                time.sleep(_CHECK_SECONDS)
        except SystemExit:
            click.echo("Stopping ...")
            raise
        finally:
            stack.stop()


def _start(stack: LocalStack) -> None:
    click.echo("Starting Redis, a worker and the master ...")
    begin = time.monotonic()
    stack.start()
    click.echo(f"Ready after {time.monotonic() - begin:.1f} s at {stack.url}")


def _check_task(client: MasterClient, task_type: str) -> None:
    known = client.task_types()
    if task_type not in known:
        raise DemoError(f"there is no task {task_type!r} here. Known: {', '.join(known) or 'none'}")


def _follow(stack: LocalStack, client: MasterClient, job_id: str) -> None:
    """Show the job's changes until its end, and see that what runs it is alive."""
    changes: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()

    def read() -> None:
        try:
            for change in client.follow(job_id):
                changes.put(change)
            changes.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever waits
            changes.put(error)

    # A thread, so that waiting for the next change does not keep us from looking after the processes.
    threading.Thread(target=read, daemon=True).start()
    with _connection_told(stack), _progress_shown() as show:
        while True:
            try:
                change = changes.get(timeout=_CHECK_SECONDS)
            except queue.Empty:
                stack.check()
                continue
            if isinstance(change, BaseException):
                raise change
            if change is None:
                raise DemoError(f"the master ended the stream of job {job_id} before the job's end")
            show(change["status"], change["progress"])
            if JobStatus(change["status"]).is_terminal:
                return


@contextmanager
def _progress_shown() -> Iterator[Callable[[str, int], None]]:
    """On a terminal one bar that is drawn again and again, elsewhere a line for each change."""
    live = sys.stdout.isatty()

    def show(status: str, progress: int) -> None:
        if live:
            bar = ("#" * (progress * _BAR_WIDTH // 100)).ljust(_BAR_WIDTH, "-")
            click.echo(f"\r[{bar}] {progress:3d} %  {status:<12}", nl=False)
        else:
            click.echo(f"{progress:3d} %  {status}")

    try:
        yield show
    finally:
        if live:
            click.echo()


def _show_outcome(job: Mapping[str, Any]) -> None:
    if job["status"] != JobStatus.COMPLETED:
        raise DemoError(f"the job ended with status {job['status']}: {job['error_message']}")
    output = job["task_output"] or {}
    files = [Path(file) for file in output.get("processed_files", [])]
    for file in files:
        click.echo(f"Result: {file}\n        {_description(file)}")
    if not files:
        click.echo(f"Result: {output}")


@contextmanager
def _connection_told(stack: LocalStack) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(
            f"the talk with the master failed ({type(error).__name__}): {error}. The end of its log:\n"
            f"{stack.log_tail('master')}"
        ) from error


def _drawn(directory: Path) -> Path:
    from cl_ml_tools.demo.picture import draw_picture

    path = directory / "evening.jpg"
    draw_picture(path)
    return path


def _description(file: Path) -> str:
    from PIL import Image, UnidentifiedImageError

    size = f"{file.stat().st_size:,} bytes"
    try:
        with Image.open(file) as image:
            return f"{image.width} x {image.height} pixels, {image.format}, {size}"
    except UnidentifiedImageError:
        return size


def _form(task_type: str, fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    given = {name for name, _ in fields}
    filled_in = _FIELDS.get(task_type, {}).items()
    return [*(field for field in filled_in if field[0] not in given), *fields]


def _form_text(form: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in form) or "no fields"
