"""Convert pictures to another format."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_ml_tools.plugins.image_conversion.schema import ImageConversionParams
    from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask

__all__ = ["ImageConversionParams", "ImageConversionTask"]


def __getattr__(name: str) -> Any:
    # The web process imports this package for schema and routes, and must not load Pillow with it.
    if name == "ImageConversionParams":
        from cl_ml_tools.plugins.image_conversion.schema import ImageConversionParams

        return ImageConversionParams
    if name == "ImageConversionTask":
        from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask

        return ImageConversionTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
