"""Tell what a picture is and what its file says about it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_ml_tools.plugins.image_metadata.schema import ImageMetadataParams
    from cl_ml_tools.plugins.image_metadata.task import ImageMetadataTask

__all__ = ["ImageMetadataParams", "ImageMetadataTask"]


def __getattr__(name: str) -> Any:
    # The web process imports this package for schema and routes, and must not load Pillow with it.
    if name == "ImageMetadataParams":
        from cl_ml_tools.plugins.image_metadata.schema import ImageMetadataParams

        return ImageMetadataParams
    if name == "ImageMetadataTask":
        from cl_ml_tools.plugins.image_metadata.task import ImageMetadataTask

        return ImageMetadataTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
