import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cl_ml_tools.demo import processes
from cl_ml_tools.demo.processes import Children, OrderlyExit
from cl_ml_tools.errors import DemoError


@pytest.fixture
def orderly_exit() -> Iterator[OrderlyExit]:
    with OrderlyExit() as entered:
        yield entered


@pytest.fixture
def children(orderly_exit: OrderlyExit) -> Iterator[Children]:
    children = Children(orderly_exit)
    yield children
    children.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_in_order_once(orderly_exit: OrderlyExit, number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    # Whatever comes now would only disturb the cleaning up.
    os.kill(os.getpid(), number)


def test_a_signal_waits_until_what_it_would_tear_is_done(orderly_exit: OrderlyExit) -> None:
    done = []

    def act() -> None:
        with orderly_exit.held():
            with orderly_exit.held():
                os.kill(os.getpid(), signal.SIGTERM)
            done.append("all")

    with pytest.raises(SystemExit):
        act()
    assert done == ["all"]


def test_after_it_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with OrderlyExit():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, ignored)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_child_that_has_ended_is_told_with_its_log(children: Children) -> None:
    children.start("sleeper", shell("exec sleep 60"), os.environ)
    ended = children.start("grumbler", shell('echo "no more $WISH" >&2; exit 3'), {"WISH": "porridge"})
    ended.process.wait(10)
    with pytest.raises(DemoError, match=r"the grumbler ended with exit code 3\..*\nno more porridge"):
        children.check()


def test_a_child_that_was_killed_is_told_with_the_signal(children: Children) -> None:
    killed = children.start("sleeper", shell("exec sleep 60"), os.environ)
    children.check()
    killed.process.kill()
    killed.process.wait(10)
    with pytest.raises(DemoError, match="the sleeper was ended by signal 9"):
        children.check()


def test_stopping_ends_all_and_removes_their_logs(children: Children) -> None:
    started = [
        children.start(name, shell("echo begun; exec sleep 60"), os.environ) for name in ("one", "other")
    ]
    wait_until(lambda: all(child.log_tail() == "begun" for child in started))
    children.stop()
    children.stop()
    assert not any(is_running(child.process.pid) for child in started)
    assert not any(child.log.parent.exists() for child in started)


def test_what_does_not_obey_is_ended_by_force_with_its_own_children(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.2)
    stubborn = children.start(
        "stubborn", shell("trap '' TERM; sleep 60 & echo $!; wait; sleep 60"), os.environ
    )
    wait_until(lambda: stubborn.log_tail() != "")
    grandchild = int(stubborn.log_tail())
    assert is_running(grandchild)
    children.stop()
    assert not is_running(stubborn.process.pid)
    wait_until(lambda: not is_running(grandchild))


def test_the_children_of_a_child_that_crashed_are_ended_too(children: Children) -> None:
    crashed = children.start("crashed", shell("sleep 60 & echo $!; wait"), os.environ)
    wait_until(lambda: crashed.log_tail() != "")
    grandchild = int(crashed.log_tail())
    crashed.process.kill()
    crashed.process.wait(10)
    children.stop()
    wait_until(lambda: not is_running(grandchild))


def test_a_process_that_forgets_to_stop_leaves_no_child(tmp_path: Path) -> None:
    script = (
        "import os, sys; from cl_ml_tools.demo.processes import *\n"
        "child = Children(OrderlyExit()).start('sleeper', ['sleep', '60'], os.environ)\n"
        "print(child.process.pid, child.log)"
    )
    with OrderlyExit() as outer:
        parent = Children(outer)
        forgetful = parent.start("forgetful", [sys.executable, "-c", script], os.environ)
        assert forgetful.process.wait(10) == 0
        pid, log = forgetful.log_tail().split()
        parent.stop()
    assert not is_running(int(pid))
    assert not Path(log).parent.exists()
