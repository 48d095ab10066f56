"""The routes of all installed plugins, as one router."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import iter_route_contexts
from starlette.datastructures import UploadFile

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.errors import PluginLoadError, cause_of
from cl_ml_tools.file_names import safe_file_name
from cl_ml_tools.registry import RoutePlugin, installed_route_names, load_route_plugins
from cl_ml_tools.submission import admins_told
from cl_ml_tools.web.errors import ERROR_TRANSLATION

_PATH_PARAMETER = re.compile(r"\{[^}:]*(:[^}]*)?\}")


def create_master_router(
    repository: JobRepository,
    file_storage: FileStorage,
    get_current_user: Callable[..., Any],
    *,
    is_admin: Callable[[Any], bool] | None = None,
) -> APIRouter:
    """Make a router with the routes of every installed plugin; no task is imported for it.

    Errors of this package that a route raises are answered as `cl_ml_tools.web.errors` says, whoever
    wrote the route. The names of uploads are made safe before a route sees them, as
    `cl_ml_tools.file_names.safe_file_name` says: routes make paths of them.

    Args:
        repository: takes the jobs; any `JobRepository`.
        file_storage: takes the uploads; any `FileStorage`.
        get_current_user: any FastAPI dependency; returns None, an object with ``id`` or a dict with it.
        is_admin: tells of a user that is not None whether any job's outputs are theirs to take as inputs.

    Raises:
        PluginLoadError: a plugin cannot be loaded, its factory fails, or two plugins answer at one path.
    """
    master = APIRouter()
    below = [ERROR_TRANSLATION, Depends(_make_file_names_safe), Depends(admins_told(is_admin))]
    owners: dict[tuple[str, str], RoutePlugin] = {}
    for plugin in load_route_plugins():
        router = _router_of(plugin, repository, file_storage, get_current_user)
        for method, path in _addresses(router):
            owner = owners.setdefault((method, _PATH_PARAMETER.sub(r"{\1}", path)), plugin)
            if owner is not plugin:
                raise PluginLoadError(
                    f"Two plugins answer {method} {path}: {owner.origin}, and {plugin.origin}. "
                    f"Uninstall one of them, or give one another path."
                )
        master.include_router(router, dependencies=below)
    return master


def get_available_plugins() -> list[str]:
    """Name the plugins whose routes `create_master_router` mounts, sorted. None is imported for it."""
    return installed_route_names()


async def _make_file_names_safe(request: Request) -> None:
    # The form that FastAPI has parsed for the route. `request.form()` would parse it here, and take the body
    # away from a route that reads it as a stream.
    form = request._form
    for _, value in form.multi_items() if form is not None else ():
        if isinstance(value, UploadFile):
            value.filename = safe_file_name(value.filename)


def _router_of(
    plugin: RoutePlugin,
    repository: JobRepository,
    file_storage: FileStorage,
    get_current_user: Callable[..., Any],
) -> APIRouter:
    try:
        router: object = plugin.create_router(repository, file_storage, get_current_user)
    except Exception as error:
        raise PluginLoadError(
            f"{plugin.origin} cannot make its routes: {cause_of(error)}. Repair the plugin, or uninstall it."
        ) from error
    if not isinstance(router, APIRouter):
        raise PluginLoadError(
            f"{plugin.origin} returned a {type(router).__name__}. Let its factory return an APIRouter."
        )
    return router


def _addresses(router: APIRouter) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(router.routes):
        if route.path is not None:
            for method in sorted(route.methods or {"ANY"}):
                yield method, route.path
