"""``POST /jobs/contact_sheet``."""

from cl_ml_tools.plugins.contact_sheet.schema import ContactSheetParams
from cl_ml_tools.submission import upload_route

create_router = upload_route(
    "contact_sheet",
    ContactSheetParams,
    output_name=lambda filename, params: f"contact_sheet.{params.extension}",
)
