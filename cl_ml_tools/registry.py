"""The door of the plugins: what is installed under our two groups of entry points.

Nothing is kept: each call looks again. Task modules are imported by `load_tasks` only, which workers call.
"""

import logging
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from cl_ml_tools.common.compute_module import TASK_TYPE, ComputeModule
from cl_ml_tools.errors import PluginLoadError, cause_of

if TYPE_CHECKING:
    # Workers load their tasks through this module and have no FastAPI.
    from cl_ml_tools.submission import RouteFactory

logger = logging.getLogger(__name__)

TASK_GROUP = "cl_ml_tools.tasks"
ROUTE_GROUP = "cl_ml_tools.routes"


@dataclass(frozen=True, slots=True)
class RoutePlugin:
    """Routes that are installed.

    Attributes:
        name: the entry point's name.
        origin: the plugin and its distribution, in words for messages.
        create_router: the plugin's factory, called with repository, file storage and user dependency.
    """

    name: str
    origin: str
    create_router: "RouteFactory"


def installed_route_names() -> list[str]:
    """Name the installed routes without importing any of them, sorted."""
    return sorted({point.name for point in _installed(ROUTE_GROUP)})


def load_tasks() -> dict[str, ComputeModule[Any]]:
    """Import every installed task and make one instance of each.

    Returns:
        The instances by task type.

    Raises:
        PluginLoadError: a task cannot be loaded, or two have one task type.
    """
    tasks: dict[str, ComputeModule[Any]] = {}
    origins: dict[str, str] = {}
    for point in _installed(TASK_GROUP):
        task, task_type = _task_of(point)
        if task_type in tasks:
            raise PluginLoadError(
                f"Two plugins have the task type {task_type!r}: {origins[task_type]}, and {_origin(point)}. "
                f"Uninstall one of them, or give one another task type."
            )
        if task_type != point.name:
            logger.warning(
                "The task type of %s is %r, unlike the entry point's name. Jobs ask for it as %r.",
                _origin(point),
                task_type,
                task_type,
            )
        tasks[task_type], origins[task_type] = task, _origin(point)
    return tasks


def load_route_plugins() -> list[RoutePlugin]:
    """Import the route factory of every installed plugin, without calling any, sorted by name.

    Raises:
        PluginLoadError: a factory cannot be loaded, or two have one name.
    """
    plugins: dict[str, RoutePlugin] = {}
    for point in _installed(ROUTE_GROUP):
        plugin = RoutePlugin(point.name, _origin(point), _loaded(point))
        if not callable(plugin.create_router):
            raise PluginLoadError(
                f"{plugin.origin} is a {type(plugin.create_router).__name__} and cannot be called. Let the "
                f"entry point name a function of repository, file_storage and get_current_user."
            )
        if point.name in plugins:
            raise PluginLoadError(
                f"Two plugins have routes named {point.name!r}: {plugins[point.name].origin}, and "
                f"{plugin.origin}. Uninstall one of them, or rename one entry point."
            )
        plugins[point.name] = plugin
    return list(plugins.values())


def _installed(group: str) -> list[EntryPoint]:
    # A distribution that lies on the path twice (an editable install beside its wheel) is listed once.
    return sorted(entry_points(group=group), key=lambda point: (point.name, _origin(point)))


def _task_of(point: EntryPoint) -> tuple[ComputeModule[Any], str]:
    task_class = _loaded(point)
    if not (isinstance(task_class, type) and issubclass(task_class, ComputeModule)):
        raise PluginLoadError(
            f"{_origin(point)} is no subclass of cl_ml_tools.ComputeModule. Let the entry point name one."
        )
    try:
        task = task_class()
        task_type: object = task.task_type
    except Exception as error:
        raise PluginLoadError(
            f"{_origin(point)} cannot be set up: {cause_of(error)}. Its class must work without arguments."
        ) from error
    if not (isinstance(task_type, str) and TASK_TYPE.fullmatch(task_type)):
        raise PluginLoadError(
            f"{_origin(point)} has the task type {task_type!r:.100}. "
            f"Use 1 to 64 of the characters A-Z, a-z, 0-9, '_', '.' and '-'."
        )
    return task, task_type


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise PluginLoadError(
            f"{_origin(point)} does not load: {cause_of(error)}. {_next_step(point, error)}"
        ) from error


def _next_step(point: EntryPoint, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        extras = (point.dist.metadata.get_all("Provides-Extra") if point.dist else None) or []
        offer = f" (extras of {_distribution(point)}: {', '.join(sorted(extras))})" if extras else ""
        return f"Install what it imports{offer}, or uninstall the plugin."
    return "Repair the plugin, or uninstall it."


def _origin(point: EntryPoint) -> str:
    release = f"{_distribution(point)} {point.dist.version}" if point.dist else _distribution(point)
    return f"plugin {point.name!r} of {release} ({point.value}, group {point.group})"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unnamed distribution"
