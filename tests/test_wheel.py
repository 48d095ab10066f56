"""What is built is complete, and works without the checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email import message_from_string
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from harness import ROOT, Environment, Process, free_port, wait_until
from PIL import Image
from test_contract_0_2_0 import in_folder

from cl_ml_tools import __version__

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]

VERSIONS = ["3.11", "3.12", "3.13"]
OWN_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Distributions:
    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist, and the wheel that is built from nothing but the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run([*hatchling, "-t", "sdist"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / f"cl_ml_tools-{__version__}"
    subprocess.run([*hatchling, "-t", "wheel"], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return Distributions(sdist, wheel)


def interpreter(version: str) -> Path | None:
    """A Python of this version: the one that runs the tests, or one of pyenv's."""
    if version == OWN_VERSION:
        return Path(sys.executable)
    found = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    return max(found, key=lambda path: int(path.parts[-3].split(".")[2].rstrip("t")), default=None)


@pytest.fixture(scope="session")
def installed(
    distributions: Distributions, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The directory of programs of a fresh environment that holds the wheel; all are made at once."""
    folder = tmp_path_factory.mktemp("environments")

    def install(version: str) -> Path:
        target = folder / version
        subprocess.run([str(interpreter(version)), "-m", "venv", "--without-pip", str(target)], check=True)
        programs = target / "bin"
        pip = [sys.executable, "-m", "pip", "-q", "--python", str(programs / "python"), "install"]
        requirement = f"cl_ml_tools[master,compute,embedded] @ {distributions.wheel.as_uri()}"
        subprocess.run([*pip, "--no-warn-script-location", requirement], check=True, cwd=folder)
        return programs

    with ThreadPoolExecutor() as pool:
        made = {version: pool.submit(install, version) for version in VERSIONS if interpreter(version)}
    return lambda version: made[version].result()


@pytest.fixture(params=VERSIONS)
def programs(request: pytest.FixtureRequest, installed: Callable[[str], Path]) -> Path:
    if interpreter(request.param) is None:
        pytest.skip(
            f"no Python {request.param} under ~/.pyenv/versions. To run this: pyenv install {request.param}"
        )
    return installed(request.param)


@pytest.fixture
def start(environment: Environment, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a program in an empty directory, with nothing of the checkout on its path; it ends with the test."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    started: list[Process] = []

    def start(program: Path, *arguments: str) -> Process:
        clean = {"PYTHONPATH": "", "VIRTUAL_ENV": str(program.parent.parent)}
        process = environment.process(in_folder(elsewhere, str(program), *arguments), clean)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill_group()


# --- what is in them


def test_the_wheel_has_every_module_and_script_and_nothing_else(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "cl_ml_tools"
    kept = {path for pattern in ("*.py", "*.lua", "*.md", "py.typed") for path in package.rglob(pattern)}
    assert {name for name in names if name.startswith("cl_ml_tools/")} == {
        str(path.relative_to(ROOT)) for path in kept
    }
    assert len([name for name in names if name.endswith(".lua")]) > 10
    assert "cl_ml_tools/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"cl_ml_tools", f"cl_ml_tools-{__version__}.dist-info"}


def test_the_wheel_says_what_it_is_and_what_it_needs(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        folder = f"cl_ml_tools-{__version__}.dist-info"
        metadata = message_from_string(archive.read(f"{folder}/METADATA").decode())
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert metadata["License-Expression"] == "MIT"
    assert {"master", "compute", "embedded"} <= set(metadata.get_all("Provides-Extra") or [])
    always = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert sorted(re.split("[^A-Za-z]", line)[0] for line in always) == [
        "celery",
        "kombu",
        "packaging",
        "pydantic",
        "redis",
    ]
    for group in ("cl_ml_tools.tasks", "cl_ml_tools.routes", "celery.commands"):
        assert f"[{group}]" in entry_points


def test_the_sdist_has_what_a_packager_needs(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "celery_app.py",
        "compose.yaml",
        "Dockerfile",
    }
    assert wanted | {"tests/test_wheel.py", "tests/contract/README-0.2.0.md"} <= names
    assert [
        name for name in names if "__pycache__" in name or name.startswith((".git/", ".venv", "media/"))
    ] == []


# --- that it works


def test_a_job_runs_on_nothing_but_the_installed_wheel(
    programs: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    worker = start(
        programs / "celery", "-A", "cl_ml_tools", "worker", "-c", "1", "-l", "INFO", "--without-mingle"
    )
    port = str(free_port())
    master = start(programs / "uvicorn", "cl_ml_tools.app:create_app", "--factory", "--port", port)
    worker.wait_for("ready.")
    master.wait_for("Application startup complete")

    picture = BytesIO()
    Image.new("RGB", (40, 20), "teal").save(picture, "PNG")
    form = {"width": "10", "height": "10", "maintain_aspect_ratio": "true"}
    url = f"http://127.0.0.1:{port}/api/jobs"
    files = {"file": ("cat.png", picture.getvalue())}
    job_id = httpx2.post(f"{url}/image_resize", data=form, files=files).json()["job_id"]
    wait_until(lambda: httpx2.get(f"{url}/{job_id}").json()["status"] == "completed")
    with Image.open(tmp_path / "media" / "jobs" / job_id / "output" / "resized_cat.png") as image:
        assert image.size == (10, 5)
    assert "cl_ml_tools.probe" not in worker.output


def test_the_installed_wheel_knows_nothing_of_the_checkout(
    programs: Path, start: Callable[..., Process]
) -> None:
    program = (
        "import sys, cl_ml_tools.app, cl_ml_tools.stores.embedded_redis as embedded, redis\n"
        "with embedded.EmbeddedRedis() as server:\n"
        "    assert redis.Redis.from_url(server.redis_url).ping()\n"
        "print(cl_ml_tools.__file__, cl_ml_tools.__version__, *sys.path, sep='\\n')"
    )
    process = start(programs / "python", "-c", program)
    assert process.popen.wait(30) == 0, process.output
    file, version, *path = process.output.splitlines()
    assert Path(file).is_relative_to(programs.parent)
    assert version == __version__
    assert str(ROOT) not in path
    assert [entry for entry in path if entry.startswith(f"{ROOT}{os.sep}")] == []
