"""Put a text or a picture on pictures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_ml_tools.plugins.image_watermark.schema import ImageWatermarkParams
    from cl_ml_tools.plugins.image_watermark.task import ImageWatermarkTask

__all__ = ["ImageWatermarkParams", "ImageWatermarkTask"]


def __getattr__(name: str) -> Any:
    # The web process imports this package for schema and routes, and must not load Pillow with it.
    if name == "ImageWatermarkParams":
        from cl_ml_tools.plugins.image_watermark.schema import ImageWatermarkParams

        return ImageWatermarkParams
    if name == "ImageWatermarkTask":
        from cl_ml_tools.plugins.image_watermark.task import ImageWatermarkTask

        return ImageWatermarkTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
