"""Put many pictures on one sheet."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_ml_tools.plugins.contact_sheet.schema import ContactSheetParams
    from cl_ml_tools.plugins.contact_sheet.task import ContactSheetTask

__all__ = ["ContactSheetParams", "ContactSheetTask"]


def __getattr__(name: str) -> Any:
    # The web process imports this package for schema and routes, and must not load Pillow with it.
    if name == "ContactSheetParams":
        from cl_ml_tools.plugins.contact_sheet.schema import ContactSheetParams

        return ContactSheetParams
    if name == "ContactSheetTask":
        from cl_ml_tools.plugins.contact_sheet.task import ContactSheetTask

        return ContactSheetTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
