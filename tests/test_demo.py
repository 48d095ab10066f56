"""The real commands, as a user types them, each with a Redis, a worker and a master of its own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from PIL import Image

from cl_ml_tools.demo.master_client import MasterClient
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis


class Command:
    """Runs ``celery ml ...`` in a directory of its own, and sees what it leaves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Short, so that sockets can be in it too.
        self.temporary = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
        self.mark = uuid.uuid4().hex
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CL_ML_TOOLS_")
        }
        self.environment |= {"TMPDIR": str(self.temporary), "STARTED_BY": self.mark}

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "cl_ml_tools", "ml", *map(str, arguments)],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object) -> tuple[int, str, str]:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def running(self) -> list[psutil.Process]:
        """What was started by the command, at whatever remove, and still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                # A Redis server writes its title over its environment.
                marks = {process.environ().get("STARTED_BY"), *process.cmdline()}
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            places = (str(self.temporary), str(self.directory))
            if self.mark in marks or any(place in str(word) for word in marks for place in places):
                found.append(process)
        return found

    def left(self) -> list[str]:
        """Processes and temporary files that are left."""
        return [process.name() for process in self.running()] + [
            path.name for path in self.temporary.iterdir()
        ]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    for process in command.running():
        process.kill()
    shutil.rmtree(command.temporary)


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} was not printed; {process.communicate()[1]}")


def result_of(output: str) -> Path:
    found = re.search(r"^Result: (.+)$", output, re.MULTILINE)
    assert found, output
    return Path(found[1])


def test_the_demo_resizes_a_picture_that_it_draws(command: Command) -> None:
    code, output, errors = command.run("demo")
    assert (code, errors) == (0, "")
    assert "100 %  completed" in output
    result = result_of(output)
    assert result.is_relative_to(command.directory / "media" / "demo" / "jobs")
    with Image.open(result) as image:
        assert (image.size, image.format) == ((400, 300), "JPEG")
    assert f"400 x 300 pixels, JPEG, {result.stat().st_size:,} bytes" in output
    assert command.left() == []


def test_the_demo_converts_a_given_picture_with_a_redis_that_runs_already_where_users_need_tokens(
    command: Command,
) -> None:
    command.environment["CL_ML_TOOLS_API_TOKENS"] = f"ada:{64 * 'a'}"
    command.environment["CL_ML_TOOLS_ADMIN_USERS"] = "ada"
    picture = command.directory / "Bild 1.png"
    Image.new("RGB", (64, 48), "red").save(picture)
    with EmbeddedRedis() as server:
        command.environment["CL_ML_TOOLS_REDIS_URL"] = server.redis_url
        code, output, errors = command.run(
            "demo", picture, "--task", "image_conversion", "--set", "format=webp"
        )
        with redis.Redis.from_url(server.redis_url) as connection:
            assert connection.dbsize() > 0
    assert (code, errors) == (0, "")
    result = result_of(output)
    assert result.name == "converted_Bild 1.webp"
    with Image.open(result) as image:
        assert (image.size, image.format) == ((64, 48), "WEBP")
    assert command.left() == []


def test_a_field_may_be_set_again_and_one_that_the_task_does_not_have_is_told(command: Command) -> None:
    sizes = ("--set", "sizes=32", "--set", "sizes=16")
    code, output, errors = command.run("demo", "--task", "image_thumbnail", *sizes, "--set", "titel=x")
    assert (code, errors) == (0, "")
    assert "sizes=32, sizes=16, titel=x" in output
    assert "Ignored, as image_thumbnail has no such field: titel" in output
    assert len(re.findall(r"^Result: ", output, re.MULTILINE)) == 2
    assert command.left() == []


def test_a_form_that_is_refused_is_told_and_nothing_is_left(command: Command) -> None:
    code, _, errors = command.run("demo", "--set", "width=0")
    assert code == 1
    assert "width: Input should be greater than 0" in errors
    assert command.left() == []


def test_a_job_that_fails_is_told_and_nothing_is_left(command: Command) -> None:
    (command.directory / "notes.txt").write_text("no picture")
    code, _, errors = command.run("demo", "notes.txt")
    assert code == 1
    assert re.search(r"the job ended with status error: .*notes\.txt is no picture", errors)
    assert command.left() == []


@pytest.mark.parametrize("moment", ["Starting", "Ready"])
def test_ctrl_c_in_the_midst_leaves_nothing(command: Command, moment: str) -> None:
    process = command.start("demo")
    read_until(process, moment)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert command.left() == []


def test_a_redis_that_does_not_answer_is_told_without_its_password(command: Command) -> None:
    command.environment["CL_ML_TOOLS_REDIS_URL"] = "redis://:secret@127.0.0.1:1/0"
    code, _, errors = command.run("demo")
    assert code == 1
    assert "redis://***@127.0.0.1:1/0 cannot be used" in errors
    assert "secret" not in errors
    assert command.left() == []


def test_up_serves_until_a_part_of_it_dies_and_then_says_which(
    command: Command,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = command.start("up", "--port", port)
    read_until(process, "Ctrl-C stops it all")
    assert MasterClient("127.0.0.1", port).task_types() == [
        "contact_sheet",
        "image_conversion",
        "image_hash",
        "image_metadata",
        "image_resize",
        "image_thumbnail",
        "image_watermark",
    ]

    code, _, errors = command.run("up", "--port", port)
    assert code == 1
    assert f"port {port} cannot be used" in errors

    worker = next(p for p in command.running() if "worker" in p.cmdline() and p.ppid() == process.pid)
    worker.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the worker was ended by signal 9" in errors
    # What Celery itself leaves when it is killed.
    assert [name for name in command.left() if not name.startswith("pymp-")] == []


def test_the_commands_load_nothing_before_they_run() -> None:
    script = (
        "import sys; import celery.bin.celery; before = set(sys.modules); import cl_ml_tools.cli;"
        "heavy = {'redis', 'fastapi', 'PIL', 'uvicorn', 'numpy', 'cl_ml_tools.app', 'cl_ml_tools.demo'};"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
