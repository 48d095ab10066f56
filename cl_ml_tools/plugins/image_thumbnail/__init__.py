"""Make small versions of pictures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_ml_tools.plugins.image_thumbnail.schema import ImageThumbnailParams
    from cl_ml_tools.plugins.image_thumbnail.task import ImageThumbnailTask

__all__ = ["ImageThumbnailParams", "ImageThumbnailTask"]


def __getattr__(name: str) -> Any:
    # The web process imports this package for schema and routes, and must not load Pillow with it.
    if name == "ImageThumbnailParams":
        from cl_ml_tools.plugins.image_thumbnail.schema import ImageThumbnailParams

        return ImageThumbnailParams
    if name == "ImageThumbnailTask":
        from cl_ml_tools.plugins.image_thumbnail.task import ImageThumbnailTask

        return ImageThumbnailTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
