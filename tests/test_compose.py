"""compose.yaml and the Dockerfile, as far as they can be tried without Docker."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import ROOT, Environment, Process, free_port, wait_until
from PIL import Image
from redis import Redis
from redis.exceptions import RedisError
from test_contract_0_2_0 import in_folder

from cl_ml_tools.stores._redis_server_program import find_redis_server

COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROGRAMS = Path(sys.executable).parent
LOGIN = {"FLOWER_BASIC_AUTH": "me:secret"}


def docker_compose(
    folder: Path, *arguments: str, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAMS / "docker-compose"), *arguments]
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture
def services() -> dict[str, Any]:
    """The services with all variables and anchors resolved, by docker-compose itself."""
    said = docker_compose(ROOT, "config", "--format", "json", variables=LOGIN)
    assert said.returncode == 0, said.stderr
    services: dict[str, Any] = json.loads(said.stdout)["services"]
    return services


# --- the files


def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    said = docker_compose(ROOT, "config", "-q", variables=LOGIN)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_it_refuses_to_start_without_a_login_for_flower() -> None:
    for variables in ({}, {"FLOWER_BASIC_AUTH": ""}):
        said = docker_compose(ROOT, "config", "-q", variables=variables)
        assert said.returncode != 0
        assert "FLOWER_BASIC_AUTH is missing a value: set it to name:password" in said.stderr


def test_the_commented_reservation_of_a_gpu_is_right(tmp_path: Path) -> None:
    lines = COMPOSE.splitlines()
    first = next(index for index, line in enumerate(lines) if line.strip() == "# resources:")
    for index in range(first, first + 6):
        lines[index] = lines[index].replace("# ", "", 1)
    (tmp_path / "compose.yaml").write_text("\n".join(lines))
    said = docker_compose(tmp_path, "config", "--format", "json", variables=LOGIN)
    assert said.returncode == 0, said.stderr
    deploy = json.loads(said.stdout)["services"]["worker"]["deploy"]
    assert deploy["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    assert deploy["replicas"] == 2


def test_there_are_the_services_that_an_installation_has(services: dict[str, Any]) -> None:
    assert set(services) == {"redis", "master", "worker", "flower"}
    assert services["worker"]["deploy"]["replicas"] == 2
    for name in ("master", "worker", "flower"):
        assert services[name]["depends_on"]["redis"]["condition"] == "service_healthy"
    for service in services.values():
        assert service["healthcheck"]["test"]
        assert service["restart"] == "unless-stopped"


def test_master_and_workers_share_the_directory_of_files(services: dict[str, Any]) -> None:
    (directory,) = re.findall(r"CL_ML_TOOLS_STORAGE_DIR=(\S+)", DOCKERFILE)
    for name in ("master", "worker"):
        (volume,) = services[name]["volumes"]
        assert (volume["type"], volume["source"], volume["target"]) == ("volume", "media", directory)
    assert f"install -d -o app -g app {directory}" in DOCKERFILE


def test_nothing_is_open_to_the_network_and_nobody_is_root(services: dict[str, Any]) -> None:
    assert "ports" not in services["redis"]
    for service in services.values():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ()))
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert services["redis"]["user"] == "redis"
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last_stage, flags=re.MULTILINE) == ["app"]


def test_no_secret_stands_in_the_files() -> None:
    for line in (COMPOSE + DOCKERFILE).splitlines():
        if re.search(r"(?i)password|secret|token|auth", line) and not line.lstrip().startswith("#"):
            assert "${FLOWER_BASIC_AUTH:?" in line, line
    assert "://" not in COMPOSE.replace("http://127.0.0.1", "").replace("redis://redis:6379/0", "")


def test_the_image_is_built_from_what_is_let_into_its_context(tmp_path: Path) -> None:
    ignored, *let_in = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert ignored == "*"
    context = tmp_path / "context"
    context.mkdir()
    for entry in (line.removeprefix("!") for line in let_in if line.startswith("!")):
        source = ROOT / entry
        if source.is_dir():
            shutil.copytree(source, context / entry, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context)
    # As the Dockerfile does, into the directory that pip installs from.
    built = tmp_path / "source"
    built.mkdir()
    first_stage = DOCKERFILE.split("\nFROM ")[1]
    for copied in re.findall(r"^COPY (.*)$", first_stage, flags=re.MULTILINE):
        *sources, target = copied.split()
        for source in sources:
            place = built / Path(target.rstrip("/")).relative_to("/source")
            if (context / source).is_dir():
                shutil.copytree(context / source, place)
            else:
                shutil.copy(context / source, place)
    hatchling = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(hatchling, cwd=built, check=True, stdout=subprocess.DEVNULL)
    assert list(tmp_path.glob("cl_ml_tools-*.whl"))
    (extras,) = re.findall(r"/source\[([a-z,]+)\]", DOCKERFILE)
    assert extras.split(",") == ["master", "compute", "flower", "hiredis"]


# --- what they run


class Installation:
    """Runs the services' commands here, with ports and addresses of this machine in them."""

    def __init__(self, services: dict[str, Any], folder: Path) -> None:
        self.ports = {"6379": str(free_port()), "8000": str(free_port()), "5555": str(free_port())}
        self._services = services
        self._folder = folder
        self._variables = {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "CL_ML_TOOLS_STORAGE_DIR": str(folder / "media"),
        }
        self.started: list[Process] = []

    def here(self, text: str) -> str:
        """The text with what stands for it on this machine, and with less patience."""
        text = text.replace("redis://redis:", "redis://127.0.0.1:").replace("--timeout 5", "--timeout 1")
        for inside, outside in self.ports.items():
            text = text.replace(inside, outside)
        # docker-compose shows the dollars that are meant for the container's shell doubled.
        return text.replace("$$", "$")

    def variables(self, name: str) -> dict[str, str]:
        given = self._services[name].get("environment") or {}
        return {**self._variables, **{key: self.here(value) for key, value in given.items()}}

    def run(self, name: str, *more: str) -> Process:
        command = [self.here(part) for part in (*self._services[name]["command"], *more)]
        environment = Environment(self.variables(name), self._folder)
        self.started.append(environment.process(in_folder(self._folder, *command), {}))
        return self.started[-1]

    def is_healthy(self, name: str) -> bool:
        """Whether the service's own check says so."""
        kind, *check = map(self.here, self._services[name]["healthcheck"]["test"])
        command = check if kind == "CMD" else ["sh", "-c", *check]
        environment = {**os.environ, **self.variables(name)}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


@pytest.fixture
def installation(services: dict[str, Any], tmp_path: Path) -> Iterator[Installation]:
    # Whichever server there is, under the name that the service's command calls it by.
    (tmp_path / "redis-server").symlink_to(find_redis_server())
    installation = Installation(services, tmp_path)
    services["redis"]["command"][0] = str(tmp_path / "redis-server")
    yield installation
    for process in installation.started:
        process.kill_group()


def test_its_commands_and_health_checks_make_an_installation(
    installation: Installation, tmp_path: Path
) -> None:
    installation.run("redis", "--port", installation.ports["6379"])
    redis = Redis(port=int(installation.ports["6379"]))
    wait_until(lambda: answers(redis), why="Redis answers")
    for option, value in {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }.items():
        assert redis.config_get(option)[option] == value
    redis.close()

    for name in ("master", "worker", "flower"):
        assert not installation.is_healthy(name)
    installation.run("worker").wait_for("ready.")
    for name in ("master", "flower"):
        installation.run(name)
    for name in ("master", "worker", "flower"):
        wait_until(partial(installation.is_healthy, name), why=name)

    url = f"http://127.0.0.1:{installation.ports['8000']}/api/jobs"
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    files = {"file": ("cat.png", picture.getvalue())}
    job_id = httpx2.post(f"{url}/image_conversion", data={"format": "webp"}, files=files).json()["job_id"]
    wait_until(lambda: httpx2.get(f"{url}/{job_id}").json()["status"] == "completed")
    assert (tmp_path / "media" / "jobs" / job_id / "output" / "converted_cat.webp").is_file()

    flower = f"http://127.0.0.1:{installation.ports['5555']}/workers"
    assert httpx2.get(flower).status_code == 401
    assert httpx2.get(flower, auth=("me", "wrong")).status_code == 401
    shown = httpx2.get(flower, auth=("me", "secret"))
    assert shown.status_code == 200
    assert f"celery@{socket.gethostname()}" in shown.text


def answers(redis: "Redis") -> bool:
    with contextlib.suppress(RedisError):
        return bool(redis.ping())
    return False
