"""Compute fingerprints by which pictures are found again."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_ml_tools.plugins.image_hash.schema import ImageHashParams
    from cl_ml_tools.plugins.image_hash.task import ImageHashTask

__all__ = ["ImageHashParams", "ImageHashTask"]


def __getattr__(name: str) -> Any:
    # The web process imports this package for schema and routes, and must not load Pillow with it.
    if name == "ImageHashParams":
        from cl_ml_tools.plugins.image_hash.schema import ImageHashParams

        return ImageHashParams
    if name == "ImageHashTask":
        from cl_ml_tools.plugins.image_hash.task import ImageHashTask

        return ImageHashTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
