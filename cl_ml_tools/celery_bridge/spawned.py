"""Finds the installation again in a pool process that is a fresh interpreter (``worker_pool_start_method = "spawn"``).

Such a process has a copy of the app, but Celery does not import the module that has made it, where `install` was
called: the copy would have none of our tasks.
"""

import logging
import sys
from importlib import import_module

from celery import Celery, _state

from cl_ml_tools.celery_bridge.handed_down import hand_down, handed_down
from cl_ml_tools.celery_bridge.installation import Installation, installations

logger = logging.getLogger(__name__)

APPS_VARIABLE = "_CL_ML_TOOLS_APPS"
"""Carries ``module:name`` of an app, wherever it is known, from a worker's main process to its pool processes."""


def remember_places(app: Celery) -> None:
    """In the main process: note where pool processes can import the app from."""
    places = [
        f"{module_name}:{name}"
        for module_name, module in list(sys.modules.items())
        if module_name != "__main__" and not module_name.startswith("celery.")
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is app
    ]
    hand_down(APPS_VARIABLE, ",".join(places))


def adopt_copies(task_module: str) -> list[tuple[Celery, Installation]]:
    """In a spawned pool process: import the app as its user has made it, and give its installation to the copies.

    Args:
        task_module: what stands in the ``include`` of the app and of its copies.

    Returns:
        The copies. Empty in a forked process, which has the app itself.
    """
    copies = [
        app
        for app in list(_state._get_active_apps())
        if app not in installations and task_module in (app.conf.include or ())
    ]
    installation = _imported_installation() if copies else None
    if installation is None:
        if copies:
            logger.error("no module that can be imported calls install(): this process can run no job")
        return []
    installations.update((copy, installation) for copy in copies)
    return [(copy, installation) for copy in copies]


def _imported_installation() -> Installation | None:
    for place in filter(None, handed_down(APPS_VARIABLE).split(",")):
        module_name, _, name = place.partition(":")
        app = getattr(import_module(module_name), name, None)
        if isinstance(app, Celery) and app in installations:
            return installations[app]
    return None
