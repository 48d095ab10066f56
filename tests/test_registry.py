from pathlib import Path

import pytest
from plain_implementations import install_distribution, task_module

from cl_ml_tools.errors import PluginLoadError
from cl_ml_tools.registry import (
    installed_route_names,
    load_route_plugins,
    load_tasks,
)

BUILT_IN = [
    "contact_sheet",
    "image_conversion",
    "image_hash",
    "image_metadata",
    "image_resize",
    "image_thumbnail",
    "image_watermark",
]


def test_the_built_in_tasks_are_found_through_their_entry_points() -> None:
    tasks = load_tasks()
    assert sorted(tasks) == BUILT_IN
    assert {name: task.task_type for name, task in tasks.items()} == {name: name for name in BUILT_IN}


def test_the_built_in_routes_are_found_through_their_entry_points() -> None:
    plugins = load_route_plugins()
    assert [plugin.name for plugin in plugins] == BUILT_IN
    assert "of cl_ml_tools " in plugins[0].origin


def test_a_task_of_another_distribution_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"stranger_blur": task_module("blur")}
    install_distribution(
        monkeypatch, tmp_path, "blur-plugin", tasks={"blur": "stranger_blur:Task"}, modules=modules
    )
    assert sorted(load_tasks()) == ["blur", *BUILT_IN]


def test_names_are_known_without_importing_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_distribution(
        monkeypatch,
        tmp_path,
        "bomb",
        tasks={"bomb": "stranger_bomb:Task"},
        routes={"bomb": "stranger_bomb:create_router"},
        modules={"stranger_bomb": "raise RuntimeError('must not be imported')"},
    )
    assert installed_route_names() == ["bomb", *BUILT_IN]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import surely_not_installed", "No module named 'surely_not_installed'. Install what it imports"),
        ("raise RuntimeError('no GPU here')", "RuntimeError: no GPU here. Repair the plugin"),
        ("raise SystemExit('no GPU here')", "SystemExit: no GPU here"),
        ("def oh no", "SyntaxError"),
        ("", "has no attribute 'Task'"),
        ("Task = 7", "is no subclass of cl_ml_tools.ComputeModule"),
        ("class Task: pass", "is no subclass of cl_ml_tools.ComputeModule"),
        (
            "from cl_ml_tools import ComputeModule\nclass Task(ComputeModule): pass",
            "cannot be set up: TypeError",
        ),
        (
            task_module("x") + "    def __init__(self): raise OSError('weights are missing')",
            "cannot be set up: OSError: weights are missing",
        ),
        (task_module("Ünfit/../type"), "has the task type 'Ünfit/../type'"),
        (task_module(""), "has the task type ''"),
        (task_module("x" * 65), "Use 1 to 64 of the characters"),
        (task_module("x").replace("return 'x'", "return None"), "has the task type None"),
    ],
)
def test_a_task_that_does_not_load_is_named_with_its_distribution_and_the_cause(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_distribution(
        monkeypatch,
        tmp_path,
        "broken-plugin",
        version="2.3",
        tasks={"broken": "stranger_broken:Task"},
        modules={"stranger_broken": source},
    )
    with pytest.raises(PluginLoadError) as caught:
        load_tasks()
    message = str(caught.value)
    assert message.startswith("plugin 'broken' of broken-plugin 2.3 (stranger_broken:Task, ")
    assert told in message
    assert isinstance(caught.value, RuntimeError)


def test_the_cause_stays_behind_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"stranger_cause": "1 / 0"}
    install_distribution(monkeypatch, tmp_path, "p", tasks={"p": "stranger_cause:Task"}, modules=modules)
    with pytest.raises(PluginLoadError) as caught:
        load_tasks()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_missing_module_is_told_with_the_extras_of_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_distribution(
        monkeypatch,
        tmp_path,
        "heavy",
        tasks={"heavy": "stranger_heavy:Task"},
        modules={"stranger_heavy": "import surely_not_installed"},
        extras=("gpu", "cpu"),
    )
    with pytest.raises(PluginLoadError, match=r"\(extras of heavy: cpu, gpu\)"):
        load_tasks()


def test_two_tasks_of_one_type_are_refused_and_both_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("1", "2"):
        install_distribution(
            monkeypatch,
            tmp_path / number,
            f"blur-{number}",
            tasks={f"blur_{number}": f"stranger_blur_{number}:Task"},
            modules={f"stranger_blur_{number}": task_module("blur")},
        )
    with pytest.raises(PluginLoadError) as caught:
        load_tasks()
    assert "the task type 'blur'" in str(caught.value)
    assert "'blur_1' of blur-1 1.0" in str(caught.value)
    assert "'blur_2' of blur-2 1.0" in str(caught.value)


def test_a_stranger_cannot_take_the_place_of_a_built_in_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_distribution(
        monkeypatch,
        tmp_path,
        "impostor",
        tasks={"image_resize": "stranger_impostor:Task"},
        modules={"stranger_impostor": task_module("image_resize")},
    )
    with pytest.raises(PluginLoadError, match=r"of cl_ml_tools .* of impostor 1\.0"):
        load_tasks()


def test_a_distribution_that_lies_on_the_path_twice_is_one_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("wheel", "editable"):
        install_distribution(
            monkeypatch,
            tmp_path / place,
            "blur-plugin",
            tasks={"blur": "stranger_twice:Task"},
            routes={"blur": "stranger_twice:Task"},
            modules={"stranger_twice": task_module("blur")},
        )
    assert "blur" in load_tasks()
    assert [plugin.name for plugin in load_route_plugins()] == ["blur", *BUILT_IN]


def test_an_entry_point_named_otherwise_than_its_task_type_works_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_distribution(
        monkeypatch,
        tmp_path,
        "blur-plugin",
        tasks={"soft_focus": "stranger_named:Task"},
        modules={"stranger_named": task_module("blur")},
    )
    assert "blur" in load_tasks()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "'soft_focus' of blur-plugin 1.0" in record.getMessage()
    assert "'blur'" in record.getMessage()


def test_a_route_factory_that_cannot_be_called_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_distribution(
        monkeypatch,
        tmp_path,
        "odd",
        routes={"odd": "stranger_odd:create_router"},
        modules={"stranger_odd": "create_router = 'a string'"},
    )
    with pytest.raises(PluginLoadError, match=r"plugin 'odd' of odd 1\.0 .* is a str and cannot be called"):
        load_route_plugins()


def test_two_route_factories_of_one_name_are_refused_and_both_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("1", "2"):
        install_distribution(
            monkeypatch,
            tmp_path / number,
            f"routes-{number}",
            routes={"same": f"stranger_same_{number}:create_router"},
            modules={f"stranger_same_{number}": "def create_router(*a): ..."},
        )
    with pytest.raises(PluginLoadError, match=r"routes named 'same': .* routes-1 1\.0 .* routes-2 1\.0"):
        load_route_plugins()
