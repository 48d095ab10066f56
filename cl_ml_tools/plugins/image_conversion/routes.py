"""``POST /jobs/image_conversion``."""

from pathlib import PurePath

from cl_ml_tools.plugins.image_conversion.schema import ImageConversionParams
from cl_ml_tools.submission import upload_route

create_router = upload_route(
    "image_conversion",
    ImageConversionParams,
    output_name=lambda filename, params: f"converted_{PurePath(filename).stem}.{params.extension}",
)
