"""Resize pictures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_ml_tools.plugins.image_resize.schema import ImageResizeParams
    from cl_ml_tools.plugins.image_resize.task import ImageResizeTask

__all__ = ["ImageResizeParams", "ImageResizeTask"]


def __getattr__(name: str) -> Any:
    # The web process imports this package for schema and routes, and must not load Pillow with it.
    if name == "ImageResizeParams":
        from cl_ml_tools.plugins.image_resize.schema import ImageResizeParams

        return ImageResizeParams
    if name == "ImageResizeTask":
        from cl_ml_tools.plugins.image_resize.task import ImageResizeTask

        return ImageResizeTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
